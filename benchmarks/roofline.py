"""Row `roofline`: how far the transform network is from what the processor can do.

A layer needs a number of multiply-adds, and it has to read and write a number of bytes. A processor has a peak rate
for the first and for the second. The slower of the two is the layer's roof: no program takes less time for this
layer by this algorithm. `ms` is what the layers of a kind take in the fast form of TransformNet, on one picture of
256x256 with one thread; the anchor is their roof, so `times` is the share of the roof that is reached.

The peaks are measured in the same run: the best of two matrix products and three convolutions in the same precision,
and a copy of 64 MB. Where a layer's numbers fit into the cache, its bytes move faster than that, and `times` may
exceed 1."""

import torch
from torch import nn

from benchmarks.fda import common, same_weights, smooth
from benchmarks.measure import clock, line, turns
from gfa_fastai.adapt.fast import FastNorm, FastUp, FewOutputs, fast_form
from gfa_fastai.fda import TransformNet

KINDS = {nn.Conv2d: 'convolution', FastUp: 'enlarging', FewOutputs: 'last layer', FastNorm: 'norm', nn.ReLU: 'ReLU'}


def multiply_adds(layer, x, y):
    "Of a layer on an input (1, C, H, W) with an output (1, D, H', W')."
    if isinstance(layer, nn.Conv2d):
        return layer.weight[0].numel() * y.numel()
    if isinstance(layer, FastUp):  # four 2x2 kernels on the small picture
        return 4 * 4 * layer.weight.shape[0] * x.shape[1] * (x.shape[2] + 1) * (x.shape[3] + 1)
    if isinstance(layer, FewOutputs):  # four outputs at once, by kernels that are one longer
        side = layer.weight.shape[2] + 1
        return side**2 * x.shape[1] * y.numel()
    return 2 * y.numel() if isinstance(layer, FastNorm) else 0


def bytes_moved(layer, x, y):
    "Input and output once, the weights once; the norm reads its input a second time."
    weights = sum(p.numel() * p.element_size() for p in layer.parameters())
    passes = 2 if isinstance(layer, FastNorm) else 1
    return passes * x.numel() * x.element_size() + y.numel() * y.element_size() + weights


def peaks(dtype, rounds, now):
    "Multiply-adds and bytes a second: the best of some matrix products and convolutions, and of a copy."
    work, forms = {}, {}
    for n in (512, 1024):
        a, b = torch.rand(n, n, dtype=dtype), torch.rand(n, n, dtype=dtype)
        work[f'product {n}'] = n**3
        forms[f'product {n}'] = lambda a=a, b=b: a @ b
    for c, k in ((128, 3), (256, 3), (256, 1)):
        image = torch.rand(1, c, 64, 64, dtype=dtype).to(memory_format=torch.channels_last)
        kernel = torch.rand(c, c, k, k, dtype=dtype).to(memory_format=torch.channels_last)
        work[f'convolution {c}, {k}'] = c * c * k * k * (65 - k) ** 2
        forms[f'convolution {c}, {k}'] = lambda x=image, w=kernel: nn.functional.conv2d(x, w)
    best = {what: min(seconds) for what, seconds in turns(forms, rounds, now).items()}
    x = torch.rand(16 * 2**20)
    y = torch.empty_like(x)
    copied = min(turns(dict(copy=lambda: y.copy_(x)), rounds, now)['copy'])
    return max(work[what] / best[what] for what in work), 2 * x.numel() * x.element_size() / copied


class Watched:
    "Times the layers of a network in a forward pass."

    def __init__(self, net, now):
        self.now, self.seconds, self.work = now, {}, {}
        layers = [m for m in net.modules() if type(m) in KINDS]
        self.handles = [m.register_forward_pre_hook(self.before) for m in layers]
        self.handles += [m.register_forward_hook(self.after) for m in layers]

    def before(self, layer, inputs):
        self.start = self.now()

    def after(self, layer, inputs, y):
        took = self.now() - self.start
        self.seconds.setdefault(layer, []).append(took)
        self.work[layer] = multiply_adds(layer, inputs[0], y), bytes_moved(layer, inputs[0], y)


@torch.inference_mode()
def rows(a):
    "The row of the report."
    px = 96 if a.quick else 256
    now, x = clock('cpu', a.threads), smooth(px, px, 'cpu')
    net, theirs = TransformNet(out='linear').eval(), common().eval()
    same_weights(net.layers, theirs)
    fast, lines = fast_form(net), []
    for name, dtype in (('float32', torch.float32), ('bf16', torch.bfloat16)):
        with torch.autocast('cpu', torch.bfloat16, enabled=dtype == torch.bfloat16):
            adds, moved = peaks(dtype, 3 * a.rounds, now)
            forms = {'common network': lambda: theirs(x), 'TransformNet': lambda: fast(x)}
            whole = turns(forms, 3 * a.rounds, now)
            watched = Watched(fast, now)
            for _ in range(3 * a.rounds + 1):
                fast(x)
            for handle in watched.handles:
                handle.remove()
        case, rates = f'{px}x{px}, {name}', f'{adds / 1e9:.0f} billion multiply-adds/s, {moved / 1e9:.1f} GB/s'
        lines.append(line('roofline', case, 'common network', whole['common network'], note=rates))
        roofs = {m: max(w / adds, b / moved) for m, (w, b) in watched.work.items()}
        total = [sum(roofs.values())] * len(whole['TransformNet'])
        lines.append(line('roofline', case, 'TransformNet', whole['TransformNet'], 'roof', total))
        for kind, what in KINDS.items():
            layers = [m for m in roofs if type(m) is kind]
            seconds = [sum(s) for s in zip(*(watched.seconds[m][1:] for m in layers))]
            roof = [sum(roofs[m] for m in layers)] * len(seconds)
            bound = sum(watched.work[m][0] / adds >= watched.work[m][1] / moved for m in layers)
            note = f'{len(layers)} layers, {bound} of them bound by multiply-adds'
            lines.append(line('roofline', case, what, seconds, 'roof', roof, note=note))
    return lines
