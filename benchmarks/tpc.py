"""Row `tpc`: what Eq. 2 over all pairs of a batch costs, forward and backward, and how exact it is.

The error is that of float32 against float64 for features of mean 100 and standard deviation 0.1,
the worst of five draws."""

import torch

from benchmarks.measure import against, clock, turns
from gfa_fastai.tpc import tpc_loss


def loop(x):
    return sum((x[i] - x[j]).pow(2).sum() for i in range(len(x)) for j in range(len(x)) if i != j)


def differences(x):
    return (x[:, None] - x[None]).pow(2).sum()


def cdist_exact(x):
    return torch.cdist(x, x, compute_mode='donot_use_mm_for_euclid_dist').pow(2).sum()


def cdist_default(x):
    return torch.cdist(x, x).pow(2).sum()


def gram_product(x):
    sq = x.pow(2).sum(1)
    return (sq[:, None] + sq[None] - 2 * x @ x.T).sum()


FORMS = {
    'loop over pairs': loop,
    'differences (N, N, D)': differences,
    'cdist, exact': cdist_exact,
    'cdist, default': cdist_default,
    'Gram product': gram_product,
    'tpc_loss': tpc_loss,
}
GOALS = {
    'loop over pairs': 20,
    'differences (N, N, D)': 3,
    'cdist, exact': 3,
    'cdist, default': None,
    'Gram product': None,
}  # (the last two are inexact)


def worst_error(form, n, dim):
    "Relative error in float32, the worst of five draws, the same for every form."
    gen = torch.Generator().manual_seed(1)
    xs = [100 + 0.1 * torch.randn(n, dim, generator=gen) for _ in range(5)]
    with torch.no_grad():
        exact = [2 * n * (x.double() - x.double().mean(0)).pow(2).sum() for x in xs]
        return max(abs(form(x).double() / e - 1).item() for x, e in zip(xs, exact))


def rows(a, n=32, dim=4096):
    "The row of the report."
    x = torch.randn(n, dim, generator=torch.Generator().manual_seed(0)).to(a.device).requires_grad_()

    def step(form):
        def go():
            x.grad = None
            form(x).backward()

        return go

    many = {k: 1 if k == 'loop over pairs' else 10 for k in FORMS}  # short ones several times a round

    def several(f, k):
        return lambda: [f() for _ in range(k)]

    wait = torch.cuda.synchronize if a.device == 'cuda' else lambda: None
    seen = turns({k: several(step(f), many[k]) for k, f in FORMS.items()}, a.rounds, clock(a.device, a.threads), wait)
    seen = {k: [s / many[k] for s in v] for k, v in seen.items()}
    error = {k: worst_error(f, n, dim) for k, f in FORMS.items()}
    lines = against('tpc', f'N {n}, D {dim}', seen, 'tpc_loss', GOALS)
    for l in lines:
        l['note'] = f'error {error[l["what"]]:.0e}'
    return lines
