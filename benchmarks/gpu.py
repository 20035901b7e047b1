"""Work for a GPU that is there for half an hour: python -m benchmarks.gpu next

Pieces of some minutes each, in the order of what they are worth. `next` does the first piece that is not done and
says what is left; `list` shows all. A piece writes one small JSON file, with machine and versions, into the folder
of the kit. A piece that was stopped is started again, and trainings go on from their checkpoints. Copy the `*.json`
files home, and send them in an issue of the repository.

python -m benchmarks.gpu list
    python -m benchmarks.gpu next --out gpu_kit
    python -m benchmarks.gpu next --tiny --device cpu      # a dry run: small sizes, to see that it works

A bare machine with PyTorch needs the wheels of fastai, opencv-python, safetensors, pandas, scikit-learn, scikit-image,
filelock and this library, and for the first piece pytest. What each piece takes on a GPU is not yet measured."""

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

warnings.simplefilter('ignore')
import torch

from benchmarks.measure import machine, save

CHECKS = Path(__file__).resolve().parents[1] / 'tests' / 'gpu_checks.py'


def synchronize(device):
    if device == 'cuda':
        torch.cuda.synchronize()


def seconds(f, device, n=5):
    "Median time of `f()` after two calls that warm up."
    seen = []
    for i in range(n + 2):
        synchronize(device)
        start = time.perf_counter()
        f()
        synchronize(device)
        seen.append(time.perf_counter() - start)
    return sorted(seen[2:])[n // 2]


def precisions(device):
    "What the device computes in."
    from gfa_fastai.train.precision import PRECISIONS, check_precision

    def has(precision):
        try:
            check_precision(precision, device)
        except ValueError:
            return False
        return True

    return [p for p in PRECISIONS if has(p)]


def autocast(precision, device):
    dtype = torch.float16 if precision == 'fp16' else torch.bfloat16
    return torch.autocast(device, dtype, enabled=precision != 'fp32')


# -- the pieces


def checks(a):
    "The checks of tests/test_gpu.py on this device, and what 16 bits change in the answers of the network."
    from benchmarks.network import SIZES, make_batches, network

    size = SIZES['tiny' if a.tiny else 'full']
    model = network(a.device, size).eval()
    frame, face, *_ = make_batches(**dict(size, bs=4), steps=1, device=a.device)[0]

    def answers(precision):
        with torch.inference_mode(), autocast(precision, a.device):
            return torch.cat([x.float() for x in model(frame, face)], 1)

    exact = answers('fp32')
    differ = {p: float((answers(p) - exact).norm() / exact.norm()) for p in precisions(a.device)}
    if a.tiny:
        return dict(relative_difference=differ)
    found = a.out / 'checks_of_tests'
    subprocess.run([sys.executable, CHECKS, found], check=True)
    return dict(relative_difference=differ, checks=json.loads(found.read_text()))


def matrix_product(device, n, precision):
    "Floating point operations a second of a plain matrix product: what the others are to be seen against."
    x = torch.randn(n, n, device=device)

    def product():
        with autocast(precision, device):
            x @ x

    return 2 * n**3 / seconds(product, device)


def speed(a):
    "Steps of training, FDA, TPC and divergence beside the device's own matrix product; memory by batch."
    from benchmarks.network import SIZES, learner, loaders, make_batches, network
    from gfa_fastai.adapt.fda import new_loss_network
    from gfa_fastai.adapt.fast import fast_form
    from gfa_fastai.divergence import channel_stats
    from gfa_fastai.fda import FDALoss, TransformNet
    from gfa_fastai.tpc import tpc_loss

    size, steps = SIZES['tiny' if a.tiny else 'full'], 2 if a.tiny else 10
    found = {}
    for p in precisions(a.device):
        found[f'matrix product, {p}, flop/s'] = matrix_product(a.device, 64 if a.tiny else 4096, p)
        for bs in (4,) if a.tiny else (8, 16, 32):
            batches = make_batches(**dict(size, bs=bs), steps=steps, device=a.device)
            if a.device == 'cuda':
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            fit = learner(loaders(batches), a.device, size, precision=p)
            found[f'step of {bs} pairs, {p}, s'] = seconds(fit, a.device, 1) / steps
            if a.device == 'cuda':
                found[f'step of {bs} pairs, {p}, GB'] = torch.cuda.max_memory_allocated() / 1e9

    psi = torch.randn(32, 4096, device=a.device, requires_grad=True)
    found['TPC of (32, 4096), forward and backward, s'] = seconds(lambda: tpc_loss(psi).backward(), a.device)

    x = torch.rand(4, 3, size['px'], size['px'], device=a.device)
    net = fast_form(TransformNet(size['width']).to(a.device))
    loss = FDALoss(new_loss_network(None, width=size['width']).to(a.device), x[:1])
    found['step of FDA, 4 images, s'] = seconds(lambda: loss(net(x), x).backward(), a.device)

    def transfer():
        with torch.inference_mode():
            net(x)

    found['transfer of 4 images, s'] = seconds(transfer, a.device)
    model, images = network(a.device, size).eval(), torch.rand(8 if a.tiny else 64, 3, size['px'], size['px'])
    found[f'statistics of {len(images)} images, s'] = seconds(lambda: channel_stats(model, images), a.device, 1)
    return found


def settings_of_the_run(a):
    "The preset `full`: both training sets, three seeds; the dry run has the smallest of everything."
    from gfa_fastai.run.reproduce import run_settings

    best = precisions(a.device)
    training = dict(seeds=3, precision=next(p for p in ('bf16', 'fp16', 'fp32') if p in best))
    adaptation = None
    if a.tiny:
        training |= dict(steps=2, bs=8, width=0.0625, seeds=1, precision='fp32')
        adaptation = dict(steps=1, width=0.125, train=['webcam'])
    data = dict(train=['webcam']) if a.tiny else None
    return run_settings('tiny' if a.tiny else 'full', data=data, training=training, adaptation=adaptation)


def prepared(a):
    "Run folder, settings, frames: rendered on all cores the first time."
    from gfa_fastai.run.reproduce import open_run, run_frames

    settings = settings_of_the_run(a)
    out = open_run(a.out / 'run', settings)
    return out, settings, run_frames(settings, out, progress=not a.tiny)[0]


def pictures(a):
    "All domains of SynthPAD, rendered and cut."
    frames = prepared(a)[2]
    return dict(images=len(frames), domains=int(frames['dataset'].nunique()))


def fda_of(train):
    def fda(a):
        "A full-size fit of FDA."
        from gfa_fastai.run.reproduce import fit_fda

        out, settings, frames = prepared(a)
        return fit_fda(train, frames, out, settings, progress=not a.tiny).info

    return fda


def training_of(train, tpc, fda, seed):
    def arm(a):
        "One training, scored at once."
        from gfa_fastai.run.reproduce import list_arms, run_arm
        from gfa_fastai.run.report import evaluate_arms

        out, settings, frames = prepared(a)
        wanted = dict(train=train, tpc=tpc, fda=fda, seed=seed)
        it = next(one for one in list_arms(frames, settings) if wanted.items() <= one.items())
        rates = evaluate_arms([it], {it['name']: run_arm(it, frames, out, settings)})
        home = rates[rates['convention'] == 'source-dev']
        return dict(arm=it, hter={r.test: float(r.report.hter) for r in home.itertuples()})

    return arm


def settings_in_vivo(a):
    "The experiment of the page In vivo at the paper's width and size."
    from gfa_fastai.run.in_vivo import IN_VIVO

    if a.tiny:
        return IN_VIVO | dict(subjects=(4, 2, 4), steps=2, seeds=(0,))
    return IN_VIVO | dict(width=1.0, size=224, seeds=range(3), bf16='bf16' in precisions(a.device))


def in_vivo_of(shortcut, seed):
    def in_vivo(a):
        "All arms of a shortcut and a seed; the first piece of a shortcut renders it on all cores."
        import os
        from gfa_fastai.run.in_vivo import run_in_vivo

        settings = settings_in_vivo(a) | dict(seeds=(seed,))
        table = run_in_vivo(
            a.out / 'in_vivo.csv',
            a.out / 'in_vivo',
            settings,
            shortcuts=(shortcut,),
            progress=not a.tiny,
            device=a.device,
            workers=os.cpu_count(),
        )
        own = table[(table['shortcut'] == shortcut) & (table['seed'] == seed)]
        return dict(settings=dict(settings, seeds=[seed]), networks=json.loads(own.to_json(orient='records')))

    return in_vivo


def all_pieces(a):
    "Name -> function, in the order of what they are worth."
    pieces = dict(checks=checks, speed=speed, pictures=pictures)
    for seed in range(1 if a.tiny else 3):
        for train in ('webcam',) if a.tiny else ('webcam', 'phone'):
            for fda in (False, True):
                if fda and not seed:
                    pieces[f'fda-{train}'] = fda_of(train)
                for tpc in (False, True):
                    name = f'{train}-tpc_{"on" if tpc else "off"}{"-fda" if fda else ""}-seed{seed}'
                    pieces[name] = training_of(train, tpc, fda, seed)
    for seed in settings_in_vivo(a)['seeds']:
        for shortcut in ('screen', 'colour'):
            pieces[f'in_vivo-{shortcut}-seed{seed}'] = in_vivo_of(shortcut, seed)
    return pieces


# -- the command


def do_next(a):
    "Do the first piece that is not done; its name, or None where all are."
    pieces = all_pieces(a)
    left = [name for name in pieces if not (a.out / f'{name}.json').exists()]
    if not left:
        print(f'all {len(pieces)} pieces are done: {a.out}/*.json')
        return None
    name, start = left[0], time.perf_counter()
    print(f'{name} ({len(left)} of {len(pieces)} pieces left)', flush=True)
    if a.device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    found = pieces[name](a)
    report = dict(piece=name, tiny=a.tiny, machine=machine(a.device, torch.get_num_threads()), found=found)
    report['seconds'] = round(time.perf_counter() - start, 1)
    if a.device == 'cuda':
        report['peak_gb'] = torch.cuda.max_memory_allocated() / 1e9
    save(a.out / f'{name}.json', report)
    print(f'{name}: {report["seconds"]} s, {a.out / name}.json')
    return name


def main(argv=None):
    p = argparse.ArgumentParser(
        'python -m benchmarks.gpu', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('job', choices=['next', 'list'])
    p.add_argument('--out', type=Path, default=Path('gpu_kit'), help='folder of the kit (default: %(default)s)')
    p.add_argument('--device', default='cuda', choices=['cuda', 'cpu'], help='default: %(default)s')
    p.add_argument('--tiny', action='store_true', help='a dry run of small sizes')
    a = p.parse_args(argv)
    if a.job == 'list':
        for name in all_pieces(a):
            print(f'{"done" if (a.out / f"{name}.json").exists() else "open"}  {name}')
        return None
    if a.device == 'cuda' and not torch.cuda.is_available():
        p.error('there is no GPU of NVIDIA here: --device cpu --tiny is a dry run')
    if a.device == 'cpu':
        from fastai.torch_core import default_device

        default_device(False)
    a.out.mkdir(parents=True, exist_ok=True)
    return do_next(a)


if __name__ == '__main__':
    main()
    sys.exit()
