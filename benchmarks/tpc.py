"""What Eq. 2 over all pairs of a batch costs, forward and backward, and how exact it is: python benchmarks/tpc.py

The error is that of float32 against float64 for features of mean 100 and standard deviation 0.1, the worst of five
draws. Times depend on the machine, the threads and on who else is using it; compare within one table."""
import argparse
import platform
import time
from statistics import median

import torch

from gfa_fastai.tpc import tpc_loss

def loop(x): return sum((x[i] - x[j]).pow(2).sum() for i in range(len(x)) for j in range(len(x)) if i != j)
def differences(x): return (x[:,None] - x[None]).pow(2).sum()
def cdist_exact(x): return torch.cdist(x, x, compute_mode='donot_use_mm_for_euclid_dist').pow(2).sum()
def cdist_default(x): return torch.cdist(x, x).pow(2).sum()
def gram_product(x):
    sq = x.pow(2).sum(1)
    return (sq[:,None] + sq[None] - 2*x@x.T).sum()

FORMS = {'loop over pairs': loop, 'differences (N, N, D)': differences, 'cdist, exact': cdist_exact,
         'cdist, default': cdist_default, 'Gram product': gram_product, 'tpc_loss': tpc_loss}

def clock(form, x, budget):
    "Median seconds of forward and backward over `budget` seconds of runs, three at least."
    seen, start = [], time.perf_counter()
    while len(seen) < 4 or time.perf_counter() - start < budget:
        x.grad, t = None, time.perf_counter()
        form(x).backward()
        seen.append(time.perf_counter() - t)
    return median(seen[1:])                                    # the first one warms up

def worst_error(form, n, dim):
    "Relative error in float32, the worst of five draws of mean 100 and standard deviation 0.1, the same for every form."
    gen = torch.Generator().manual_seed(1)
    xs = [100 + .1*torch.randn(n, dim, generator=gen) for _ in range(5)]
    with torch.no_grad():
        exact = [2*n*(x.double() - x.double().mean(0)).pow(2).sum() for x in xs]
        return max(abs(form(x).double()/e - 1).item() for x,e in zip(xs, exact))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--threads', type=int, default=1, help='of torch')
    p.add_argument('--rows', type=int, default=32, help='N, images in the batch')
    p.add_argument('--dim', type=int, default=4096, help='D, features per image')
    p.add_argument('--budget', type=float, default=1., help='seconds per form')
    a = p.parse_args()
    if min(a.threads, a.dim) < 1 or a.rows < 2: p.error('threads and dim start at 1, rows at 2')
    torch.set_num_threads(a.threads)
    x = torch.randn(a.rows, a.dim, generator=torch.Generator().manual_seed(0)).requires_grad_()
    took = {k: clock(f, x, a.budget) for k,f in FORMS.items()}
    print(f'N = {a.rows}, D = {a.dim}, float32, {a.threads} thread(s), torch {torch.__version__}, {platform.machine()}')
    print(f'{"":23}{"ms":>9}{"times tpc_loss":>16}{"error":>10}')
    for k,f in FORMS.items(): print(f'{k:23}{1e3*took[k]:9.2f}{took[k]/took["tpc_loss"]:16.1f}{worst_error(f, a.rows, a.dim):10.0e}')

if __name__ == '__main__': main()
