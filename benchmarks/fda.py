"""What transferring images costs: python benchmarks/fda.py

Images per second at 256x256 and 720x480, one image at a time, of the transform network as the literature has it (written
here with PyTorch's own layers: reflection padding, nearest neighbour and 3x3, InstanceNorm), of TransformNet in both of its
forms, of FDA as it is applied by default (a frame larger than its training size is seen at that size, 256, and the
difference enlarged), and of LightFDA. All in one run, on the same images, in turns. The first three rows are one function:
their largest difference is printed, so their divergence to any target is equal. Whether that of the others is, depends on
the fit: chapter 42 and Figure 7 measure it. Times depend on the machine, the threads and on who else is using it; compare within one table.
With one thread on a CPU it is processor time, which others at work on the machine disturb less."""
import argparse
import platform
import resource
import time
from statistics import median

import torch
from torch import nn

from gfa_fastai.adapt import GridNet
from gfa_fastai.fda import FDA, FDALoss, LossNetwork, TransformNet

class Block(nn.Module):
    "Two convolutions and a sum."
    def __init__(self, n):
        super().__init__()
        self.body = nn.Sequential(*conv(n, n, 3), nn.InstanceNorm2d(n, affine=True), nn.ReLU(), *conv(n, n, 3), nn.InstanceNorm2d(n, affine=True))
    def forward(self, x): return x + self.body(x)

def conv(a, b, k, stride=1): return [nn.ReflectionPad2d(k//2), nn.Conv2d(a, b, k, stride)]

def common():
    "The network of Johnson et al. as PyTorch programs write it."
    def block(a, b, k, stride=1): return [*conv(a, b, k, stride), nn.InstanceNorm2d(b, affine=True), nn.ReLU()]
    def up(a, b): return [nn.Upsample(scale_factor=2, mode='nearest'), *block(a, b, 3)]
    return nn.Sequential(*block(3, 32, 9), *block(32, 64, 3, 2), *block(64, 128, 3, 2), *[Block(128) for _ in range(5)], *up(128, 64), *up(64, 32), *conv(32, 3, 9))

def same_weights(net, theirs):
    "Copy convolutions and norms, in their order."
    def parts(m): return [o for o in m.modules() if isinstance(o, (nn.Conv2d, nn.GroupNorm, nn.InstanceNorm2d))]
    for a,b in zip(parts(net), parts(theirs), strict=True):
        b.weight.data.copy_(a.weight.data); b.bias.data.copy_(a.bias.data)

def clock(forms, x, rounds, now):
    "Median seconds of each form, in turns."
    seen = {k: [] for k in forms}
    with torch.inference_mode():
        for r in range(rounds+1):
            for k,f in forms.items():
                t = now(); f(x)
                if r: seen[k].append(now() - t)  # the first round warms up
    return {k: median(v) for k,v in seen.items()}

def fit_step(net, size, now, bs=4, steps=3):
    "Seconds of a training step with the shipped small trunk as the loss network."
    loss = FDALoss(LossNetwork(), torch.rand(1, 3, size, size), 'relu2_2', ('relu1_2', 'relu2_2', 'relu3_3', 'relu4_3'), 'relative')
    opt, x, seen = torch.optim.Adam(net.parameters()), torch.rand(bs, 3, size, size), []
    for _ in range(steps+1):
        t = now()
        opt.zero_grad(); loss(net(x), x).backward(); opt.step()
        seen.append(now() - t)
    return median(seen[1:])

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--threads', type=int, default=1, help='of torch')
    p.add_argument('--rounds', type=int, default=5, help='of timing')
    p.add_argument('--device', default='cpu', help='cpu or cuda')
    p.add_argument('--fit', action='store_true', help='time a training step at 256x256, too')
    a = p.parse_args()
    if min(a.threads, a.rounds) < 1: p.error('threads and rounds start at 1')
    torch.set_num_threads(a.threads)
    fast, slow, theirs, light = TransformNet(out='linear').eval(), TransformNet(out='linear').eval().fast(False), common().eval(), GridNet()
    same_weights(fast.layers, theirs)
    nn.init.normal_(light.last.weight, 0, .05)
    applied = FDA(size=256)
    applied.net, applied.info['steps'] = applied.net.to(a.device), 0
    def other(x): return theirs((x - fast.mean)/fast.std)*fast.std + fast.mean
    def wait(f): return (lambda x: (f(x), torch.cuda.synchronize())[0]) if a.device == 'cuda' else f
    for m in (fast, slow, theirs, light): m.to(a.device)
    forms = {'common PyTorch network': wait(other), 'TransformNet, as written': wait(slow), 'TransformNet': wait(fast), 'FDA, as it is applied': wait(applied.apply), 'LightFDA': wait(light)}
    now = time.process_time if a.device == 'cpu' and a.threads == 1 else time.perf_counter
    print(f'float32, {a.threads} thread(s), {a.device}, torch {torch.__version__}, {platform.machine()}; images per second of {"processor" if now is time.process_time else "wall-clock"} time, median of {a.rounds}')
    print(f'{"":26}{"256x256":>10}{"times":>8}{"720x480":>10}{"times":>8}')
    took = {s: clock(forms, torch.rand(1, 3, *s, device=a.device), a.rounds, now) for s in ((256, 256), (480, 720))}
    for k in forms:
        print(f'{k:26}' + ''.join(f'{1/t[k]:10.2f}{t["common PyTorch network"]/t[k]:8.2f}' for t in took.values()))
    x = torch.rand(1, 3, 256, 256, device=a.device)
    with torch.inference_mode(): print(f'largest difference of TransformNet and the common network, of 1: {(fast(x)-other(x)).abs().max().item():.1e}')
    print(f'peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024:.0f} MB')
    if a.fit:
        print('a training step of 4 images at 256x256, small trunk: ' + ', '.join(f'{k} {fit_step(m, 256, now):.1f} s' for k,m in (('TransformNet', TransformNet()), ('LightFDA', GridNet()))))

if __name__ == '__main__': main()
