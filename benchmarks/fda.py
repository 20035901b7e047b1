"""Rows `fda` and `fit`: what transferring images costs, and fitting a network that does it.

Images at 256x256 and 720x480, one at a time, through the transform network as the literature has it (written here
with PyTorch's own layers: reflection padding, nearest neighbour and 3x3, InstanceNorm), in float32 and under bf16
autocast; through the fast form of TransformNet in both precisions; through FDA as it is applied by default (a frame
larger than its training size is seen at that size, 256, and the difference enlarged); and through LightFDA. The
first, second and third rows in float32 are one function: the note says by how many grey levels of 255 each differs
from the common network, at most and in the mean, and how far it is from a target in relative Grams of a network
(random weights): equal divergence is equal to some thousandths. That of FDA as applied and of LightFDA hangs on the
fit: the page "Measuring an adaptation" and Figure 7 measure it."""

import torch
from torch import nn

from benchmarks.measure import against, clock, line, turns
from gfa_fastai.adapt.fast import fast_form
from gfa_fastai.adapt.fda import FDA, new_loss_network
from gfa_fastai.adapt.light import GridNet
from gfa_fastai.fda import FDALoss, TransformNet, domain_loss, gram_matrix

JUDGED = ('relu1_2', 'relu2_2', 'relu3_3', 'relu4_3')


class Block(nn.Module):
    "Two convolutions and a sum."

    def __init__(self, n):
        super().__init__()
        self.body = nn.Sequential(
            *conv(n, n, 3),
            nn.InstanceNorm2d(n, affine=True),
            nn.ReLU(),
            *conv(n, n, 3),
            nn.InstanceNorm2d(n, affine=True),
        )

    def forward(self, x):
        return x + self.body(x)


def conv(a, b, k, stride=1):
    return [nn.ReflectionPad2d(k // 2), nn.Conv2d(a, b, k, stride)]


def common():
    "The network of Johnson et al. as PyTorch programs write it."

    def block(a, b, k, stride=1):
        return [*conv(a, b, k, stride), nn.InstanceNorm2d(b, affine=True), nn.ReLU()]

    def up(a, b):
        return [nn.Upsample(scale_factor=2, mode='nearest'), *block(a, b, 3)]

    return nn.Sequential(
        *block(3, 32, 9),
        *block(32, 64, 3, 2),
        *block(64, 128, 3, 2),
        *[Block(128) for _ in range(5)],
        *up(128, 64),
        *up(64, 32),
        *conv(32, 3, 9),
    )


def same_weights(net, theirs):
    "Copy convolutions and norms, in their order."

    def parts(m):
        return [o for o in m.modules() if isinstance(o, (nn.Conv2d, nn.GroupNorm, nn.InstanceNorm2d))]

    for a, b in zip(parts(net), parts(theirs), strict=True):
        b.weight.data.copy_(a.weight.data)
        b.bias.data.copy_(a.bias.data)


def networks(device):
    "The forms that are compared: name -> function of a batch."
    ours, theirs, light = TransformNet(out='linear').eval(), common().eval(), GridNet()
    same_weights(ours.layers, theirs)
    nn.init.normal_(light.last.weight, 0, 0.05)
    for m in (ours, theirs, light):
        m.to(device)
    fast = fast_form(ours)
    applied, small = FDA(size=256), FDA(size=256, precision='bf16')
    applied.fast.to(device)
    small.fast = applied.fast
    for adapter in (applied, small):
        adapter.info['steps'] = 0

    def usual(x):
        return theirs((x - ours.mean) / ours.std) * ours.std + ours.mean

    def half(f):
        def go(x):
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                return f(x)

        return go

    return {
        'common network': usual,
        'common network, bf16': half(usual),
        'TransformNet': fast,
        'TransformNet, bf16': half(fast),
        'FDA as applied': applied.apply,
        'FDA as applied, bf16': small.apply,
        'LightFDA': light,
    }


def difference(y, want, goal, phi):
    "In grey levels, and how far both are from a target in relative Grams."
    off, gaps = 255 * (y.float() - want).abs(), []
    for ims in (want, y.float()):
        gaps.append(sum(domain_loss(f, goal[l], 'relative').item() for l, f in phi(ims, JUDGED).items()))
    return (
        f'off by {off.max().item():.2g} grey levels, {off.mean().item():.2g} in the mean; '
        f'domain loss {gaps[1]:.4f}, common network {gaps[0]:.4f}'
    )


def smooth(h, w, device, seed=0):
    "A picture with soft and hard edges."
    x = torch.rand(1, 3, h // 16, w // 16, generator=torch.Generator().manual_seed(seed)).to(device)
    soft = nn.functional.interpolate(x, (h, w), mode='bicubic').clamp(0, 1)
    return torch.where(soft[:, :1] > 0.6, soft.flip(1), soft)


@torch.inference_mode()
def rows(a):
    "The row of the report; goals: 1.6 times the common network, 10 times for the light one."
    forms, lines = networks(a.device), []
    phi = new_loss_network(None, seed=1).to(a.device)
    goal = {l: gram_matrix(f) for l, f in phi(smooth(256, 256, a.device, 9), JUDGED).items()}
    wait = torch.cuda.synchronize if a.device == 'cuda' else lambda: None
    for h, w in ((96, 128),) if a.quick else ((256, 256), (480, 720)):
        x = smooth(h, w, a.device)
        seen = turns({k: lambda f=f: f(x) for k, f in forms.items()}, a.rounds, clock(a.device, a.threads), wait)
        usual, half = 'common network', 'common network, bf16'
        goals = {
            'TransformNet': {usual: 1.6},
            'TransformNet, bf16': {usual: 1.6, half: 1.6},
            'FDA as applied': {usual: None},
            'FDA as applied, bf16': {usual: None},
            'LightFDA': {usual: 10},
        }
        lines += [line('fda', f'{w}x{h}', k, seen[k]) for k in (usual, half)]
        for k, g in goals.items():
            note = '' if 'FDA' in k else difference(forms[k](x), forms[usual](x), goal, phi)
            lines += [
                line('fda', f'{w}x{h}', k, seen[k], anchor, seen[anchor], least, note) for anchor, least in g.items()
            ]
    return lines


def fit(a, bs=4):
    "The row of the report: a training step with the shipped small trunk as the loss network."
    px, forms = 64 if a.quick else 256, {}
    x = torch.rand(bs, 3, px, px, device=a.device)
    for name, net in (('TransformNet', fast_form(TransformNet())), ('LightFDA', GridNet())):
        net.to(a.device)
        loss = FDALoss(new_loss_network().to(a.device), x[:1], 'relu2_2', JUDGED, 'relative')
        opt = torch.optim.Adam(net.parameters())

        def step(net=net, loss=loss, opt=opt, half=False):
            opt.zero_grad()
            with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
                l = loss(net(x), x)
            l.backward()
            opt.step()

        forms[name], forms[f'{name}, bf16'] = step, lambda step=step: step(half=True)
    wait = torch.cuda.synchronize if a.device == 'cuda' else lambda: None
    seen = turns(forms, min(a.rounds, 3), clock(a.device, a.threads), wait)
    return [
        line(
            'fit',
            f'{bs} crops of {px}x{px}',
            k,
            s,
            None if k == 'TransformNet' else 'TransformNet',
            seen['TransformNet'],
        )
        for k, s in seen.items()
    ]


@torch.inference_mode()
def where(a, px=256, c=128):
    """The row of the report: where the time of one image goes, and what bounds it.

    The rate of its main convolution, in billions of multiply-adds a second, beside that of the matrix products that
    Winograd's form of it would need (2.25 times fewer multiplications)."""
    from benchmarks.network import profile

    forms, lines, x = networks(a.device), [], smooth(px, px, a.device)
    for k in ('common network', 'TransformNet', 'TransformNet, bf16'):
        forms[k](x)
        lines += [
            line('where', f'profile of {k}', kind, [ms / 1e3]) for kind, ms in profile(lambda: forms[k](x)).items()
        ]
    h = px // 4
    y, w, parts, kernels = (
        torch.rand(1, c, h + 2, h + 2),
        torch.rand(c, c, 3, 3),
        torch.rand(16, h * h // 4, c),
        torch.rand(16, c, c),
    )
    yh, wh = y.bfloat16(), w.bfloat16()
    ways = {
        '3x3 convolution': lambda: nn.functional.conv2d(y, w),
        'products of its Winograd form': lambda: torch.bmm(parts, kernels),
        '3x3 convolution, bf16': lambda: nn.functional.conv2d(yh, wh),
    }
    work = {
        '3x3 convolution': 9 * c * c * h * h,
        'products of its Winograd form': 4 * c * c * h * h,
        '3x3 convolution, bf16': 9 * c * c * h * h,
    }
    seen = turns(ways, 3 * a.rounds, clock('cpu', a.threads))
    return lines + [
        line(
            'where',
            f'{c} channels, {h}x{h}',
            k,
            s,
            None if k == '3x3 convolution' else '3x3 convolution',
            seen['3x3 convolution'],
            note=f'{work[k] / sorted(s)[len(s) // 2] / 1e9:.0f} billion multiply-adds/s',
        )
        for k, s in seen.items()
    ]
