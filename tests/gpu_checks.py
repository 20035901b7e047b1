"""What must hold on a GPU: on the card where there is one, else on the pretend one.

python tests/gpu_checks.py OUT.json [NAME ...]   runs the checks, or those that are named, and writes what each gave"""

import functools
import json
import sys
import time
import traceback
import warnings
from pathlib import Path
from unittest.mock import patch

import torch

REAL = torch.cuda.is_available()
if not REAL:
    import pretend_gpu

    pretend_gpu.on()

warnings.filterwarnings('ignore')
import cv2
import numpy as np
import pandas as pd
import pytest
from fastai.vision.all import (
    Callback,
    CancelFitException,
    GradientAccumulation,
    GradientClip,
    MixedPrecision,
    TensorImage,
    default_device,
    partial,
    tempfile,
    to_device,
)
from torch.utils.checkpoint import checkpoint

from gfa_fastai.adapt.fda import FDA, choose_target, gram_gap, mean_grams, new_loss_network
from gfa_fastai.adapt.light import LightFDA
from gfa_fastai.adapt.methods import ColourMatch, FourierSwap
from gfa_fastai.compare.recognition import gallery_probe, pick_gallery, verify_pairs
from gfa_fastai.data import gfa_dataloaders
from gfa_fastai.divergence import channel_means, feature_divergence
from gfa_fastai.evaluation import score_samples
from gfa_fastai.fda import gram_matrix
from gfa_fastai.inputs.batches import picture_batches
from gfa_fastai.inputs.frames import extract_frames
from gfa_fastai.inputs.models import load_model, save_model
from gfa_fastai.learner import GFALoss, gfa_learner
from gfa_fastai.model import GFACNN
from gfa_fastai.run.in_vivo import IN_VIVO, live_logits, train_in_vivo
from gfa_fastai.run.reproduce import reproduce
from gfa_fastai.synth.benchmark import make_synthpad
from gfa_fastai.tpc import TPCLoss, mmd_loss
from gfa_fastai.train.checkpoint import fit_resumable
from gfa_fastai.train.guards import guarded
from gfa_fastai.train.precision import precision_of, set_precision
from gfa_fastai.use.authenticate import FaceAuthenticator, both_answers
from gfa_fastai.use.export import export_onnx

GPU = torch.device('cuda', 0)
folder = tempfile.TemporaryDirectory()
HERE = Path(folder.name)


@functools.cache
def frames():
    samples = make_synthpad(
        HERE / 's', 'tiny', domains=['webcam', 'phone'], subjects=(4, 2, 2), frames=1, workers=1, progress=False
    )
    return extract_frames(samples, HERE / 'cache', size=48, progress=False)


def probes():
    df = frames()
    return df[(df['role'] == 'probe') & (df['dataset'] == df['dataset'].iloc[0])].reset_index(drop=True)


def learner(cbs=None, net={}, loss=None, **guards):
    small = partial(GFACNN, **{**dict(width=0.0625, pool=1), **net})
    learn = guarded(gfa_learner(gfa_dataloaders(probes(), bs=8), small, loss, cbs=cbs, path=HERE), **guards)
    learn.logger = lambda *args: None
    return learn.remove_cbs([cb for cb in learn.cbs if cb.name == 'progress'])


def network():
    torch.manual_seed(0)
    return GFACNN(4, width=0.0625, pool=1).to(GPU).eval()


def photos(n=4):
    return probes()['frame_path'].drop_duplicates().tolist()[:n]


class CancelAt(Callback):
    "Cancels a fit after a step; with `spoil`, one weight is infinite then."

    def __init__(self, at, spoil=False):
        self.at, self.spoil = at, spoil

    def after_batch(self):
        if self.training and self.train_iter == self.at:
            if self.spoil:
                self.model.spoof_head[0].bias.data[0] = float('inf')
            raise CancelFitException()


# -- what the pretend GPU claims of a GPU


def devices_do_not_mix():
    x, y = torch.ones(2, 3, device=GPU), torch.ones(2, 3)
    for f in (
        lambda: x + y,
        lambda: torch.cat([x, y]),
        lambda: torch.stack([x[0, 0], y[0, 0]]),
        lambda: torch.nn.Linear(3, 2)(x),
        lambda: torch.nn.functional.mse_loss(x, y),
        lambda: y[torch.tensor([0], device=GPU)],
        lambda: torch.rand(2, device=GPU, generator=torch.Generator()),
        lambda: y.add_(x),
        lambda: y.to('cuda:99'),
    ):
        with pytest.raises((RuntimeError, AssertionError)):
            f()
    for f in (x.numpy, lambda: np.asarray(x)):
        with pytest.raises(TypeError, match='to numpy'):
            f()
    assert (x * torch.tensor(2.0)).device == x[torch.tensor([1])].device == GPU


def places_of_tensors():
    x = torch.arange(6.0, device='cuda').view(2, 3)
    here = [
        x[0],
        x.T,
        x * 2,
        x.clone(),
        torch.zeros_like(x),
        x.new_empty(1),
        x.half(),
        x.to(torch.float64),
        *x.chunk(2),
    ]
    here += [torch.as_tensor(np.ones(2), device=GPU), torch.ones(1).type_as(x), torch.ones(1).to(x), next(iter(x))]
    assert all(t.device == GPU and t.is_cuda and not t.is_cpu and t.get_device() == 0 for t in here)
    there = [x.cpu(), x.to('cpu'), torch.zeros_like(x, device='cpu'), torch.tensor([x[0, 0], x[0, 1]])]
    assert all(t.device.type == 'cpu' and not t.is_cuda for t in there)
    assert x.to(GPU) is x and x.cpu().numpy().sum() == 15
    y = torch.zeros(3)
    y.copy_(x[0])
    assert y.tolist() == [0, 1, 2] and x[0].tolist() == [0, 1, 2] and y.device.type == 'cpu'
    picture = TensorImage(torch.zeros(3, 4, 4)).to(GPU)
    assert isinstance(picture * 2, TensorImage) and (picture * 2).device == GPU
    assert to_device([torch.ones(1)], default_device())[0].device == GPU
    g = torch.Generator(GPU).manual_seed(0)
    assert g.device == GPU and torch.rand(2, device=GPU, generator=g).device == GPU


def modules_and_optimisers():
    for options in (dict(fused=True), dict(foreach=True), dict(foreach=False)):
        layer = torch.nn.Linear(3, 2)
        weight = layer.weight
        layer.cuda()
        assert layer.weight is weight and weight.device == GPU
        opt = torch.optim.Adam(layer.parameters(), **options)
        for _ in range(2):
            checkpoint(layer, torch.ones(4, 3, device=GPU), use_reentrant=False).sum().backward()
            opt.step()
        assert weight.grad.device == opt.state[weight]['exp_avg'].device == GPU
        (HERE / 'opt').unlink(missing_ok=True)
        torch.save(dict(opt=opt.state_dict(), net=layer.state_dict()), HERE / 'opt')
        assert torch.load(HERE / 'opt', weights_only=True)['net']['weight'].device == GPU
        kept = torch.load(HERE / 'opt', weights_only=True, map_location='cpu')
        assert kept['net']['weight'].device.type == 'cpu'
        opt.load_state_dict(kept['opt'])
        assert opt.state[weight]['exp_avg'].device == GPU
        layer.load_state_dict(kept['net'])
        opt.step()


# -- training


def training_in_float32():
    learn = learner()
    assert {x.device for dl in learn.dls for x in dl.one_batch()} == {GPU}
    learn.fit(1)
    steps = len(learn.dls.train)
    assert len(learn.terms) == steps
    assert learn.opt.opt.defaults['fused'] and all(p.device == GPU for p in learn.model.parameters())
    scores, who, features = learn.get_preds(dl=learn.dls.valid)[0]
    assert scores.device.type == 'cpu' and torch.isfinite(features).all()
    learn.validate()
    learn.show_results(max_n=2)
    learn.lr_find(num_it=20, show_plot=False)


def a_cancelled_fit_is_read_and_checked():
    learn = learner(CancelAt(3))
    learn.fit(1)
    assert len(learn.terms) == 3 and not learn.track_terms.late
    with pytest.raises(FloatingPointError, match='Weights are not finite after step 3'):
        learner(CancelAt(3, spoil=True)).fit(1)


def training_that_goes_on():
    whole = learner()
    fit_resumable(whole, 2, HERE / 'whole.pt', every=0)
    parts = learner(CancelAt(3))
    fit_resumable(parts, 2, HERE / 'parts.pt', every=0)
    parts = learner()
    fit_resumable(parts, 2, HERE / 'parts.pt', every=0)
    a, b = (learn.model.state_dict() for learn in (whole, parts))
    same = torch.equal if not REAL else partial(torch.allclose, atol=1e-4)
    assert len(parts.terms) == len(whole.terms) and all(same(a[k], b[k]) for k in a)


def training_in_fp16_that_goes_on():
    "The scale is far too large at first: it is kept, so that the same steps are left out."

    def part(path, *cbs):
        learn = set_precision(learner(list(cbs)), 'fp16', init_scale=2.0**22, growth_interval=4)
        fit_resumable(learn, 3, HERE / path, every=0)
        return learn

    whole = part('whole16.pt')
    part('parts16.pt', CancelAt(4))
    parts = part('parts16.pt')
    kept = [torch.load(HERE / f, weights_only=True)['scale'] for f in ('whole16.pt', 'parts16.pt')]
    assert all(k['scale'] < 2.0**22 for k in kept) and (REAL or kept[0] == kept[1])  # (a GPU's sums vary a little)
    same = torch.equal if not REAL else partial(torch.allclose, atol=1e-3)
    a, b = (learn.model.state_dict() for learn in (whole, parts))
    assert len(parts.terms) == len(whole.terms) and all(same(a[k], b[k]) for k in a)


def an_interrupt_leaves_no_autocast():
    "A forward pass that is stopped by hand or runs out of memory: what follows is in float32 again, and learns."

    def stop(*args):
        raise KeyboardInterrupt

    learn = learner(precision='fp16')
    hook = learn.model.avgpool.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1)
    hook.remove()
    x = torch.rand(2, 3, 48, 48, device=GPU)
    assert learn.model.eval().spoof(x)[0].dtype == torch.float32
    depth = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    assert depth == 1  # none around: the copies of the weights in 16 bits are thrown away after each batch
    adapter = FDA(photos()[0], width=0.125, size=48)
    adapter.fast.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        adapter.fit(photos(), steps=3, bs=2, precision='fp16', progress=False)
    assert not any(map(torch.is_autocast_enabled, ('cpu', 'cuda')))


def maps_stay_channels_last():
    "From the first convolution to the last pooling, in both precisions, also where they are computed again."
    seen = []

    def look(layer, args, out):
        seen.append(out.is_contiguous(memory_format=torch.channels_last) and not out.is_contiguous())

    for precision in ('fp32', 'fp16'):
        for recompute in (False, True):
            learn = learner(CancelAt(2), precision=precision, recompute=recompute)
            hooks = [layer.register_forward_hook(look) for layer in list(learn.model.trunk)[:-6]]  # (later maps: 3 x 3)
            learn.fit(1)
            for hook in hooks:
                hook.remove()
            grad = learn.model.trunk[2].weight
            assert grad.is_contiguous(memory_format=torch.channels_last)
    assert len(seen) > 200 and all(seen), (len(seen), sum(seen))


def training_in_fp16():
    "GradScaler, fused Adam and channels-last together: what a T4 does."
    seen = []

    class Watch(Callback):
        order = 9  # before the features are cast to float32

        def after_pred(self):
            if self.training:
                seen.append(({x.dtype for x in self.pred}, self.loss_func.tpc_func(self.pred[2]).dtype))

    learn = learner(Watch(), precision='fp16')
    learn.to_channelslast(use_amp=False)
    assert precision_of(learn) == 'fp16' and learn.opt_func.__name__ == 'tf_adam'
    before = [p.detach().clone() for p in learn.model.parameters()]
    learn.fit(1)
    assert {dtype for dtypes, _ in seen for dtype in dtypes} == {torch.float16}
    assert {tpc for _, tpc in seen} == {torch.float32}
    assert {p.dtype for p in learn.model.parameters()} == {torch.float32}
    assert all(torch.isfinite(p).all() for p in learn.model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, learn.model.parameters()))
    assert learn.model.trunk[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert precision_of(learner().to_channelslast()) == 'fp16'
    assert precision_of(learner().to_channelslast(use_amp=False)) == 'fp32'
    assert precision_of(learn.to_fp32()) == 'fp32'


def steps_that_overflow_are_skipped():
    "The first scale is far too large: GradScaler halves it and leaves the weights as they were."
    weights = []

    class Watch(Callback):
        def after_batch(self):
            if self.training:
                weights.append(next(self.model.parameters()).detach().clone())

    learn = learner(Watch())
    start = next(learn.model.parameters()).detach().clone()
    learn.add_cb(MixedPrecision('fp16', init_scale=2.0**60))
    learn.fit(1)
    assert all(torch.equal(w, start) for w in weights[:3]) and len(learn.terms) == len(weights)
    assert learn.halve_lr.steps == len(weights)


def bf16_that_is_emulated_is_refused():
    if torch.cuda.is_bf16_supported(including_emulation=False):
        learner(precision='bf16').fit(1)
        return
    with pytest.raises(ValueError, match="only emulated on this card .* Use 'fp16', or 'fp32'"):
        learner(precision='bf16')


def recomputed_and_accumulated():
    plain, slow = learner(net=dict(dropout=0.0)), learner(net=dict(dropout=0.0), recompute=True)
    for learn in (plain, slow):
        learn.fit(1, cbs=GradientAccumulation(16))
    a, b = (learn.model.state_dict() for learn in (plain, slow))
    assert all(torch.allclose(a[k], b[k], atol=1e-5) for k in a)
    learner(recompute=True, precision='fp16').fit(1, cbs=[GradientAccumulation(16), GradientClip()])


def other_readings_of_tpc():
    for reading in (TPCLoss('halves', 'mean'), TPCLoss('random', n_pairs=9), TPCLoss(scale='paper')):
        learner(loss=GFALoss(reading)).fit(1)
    psi = torch.randn(6, 5, device=GPU)
    assert mmd_loss(psi, torch.arange(6, device=GPU) % 2).device == GPU


def sums_in_float32():
    "Sums of squares that fp16 does not hold."
    psi = (100 * torch.randn(32, 4096, device=GPU)).half()
    feats = (100 * torch.randn(2, 8, 64, 64, device=GPU)).half()
    with torch.autocast('cuda', torch.float16):
        tpc, gram = TPCLoss()(psi), gram_matrix(feats)
    assert tpc.dtype == gram.dtype == torch.float32 and tpc > 65504
    assert torch.allclose(tpc.double(), TPCLoss()(psi.double()), rtol=1e-4)
    assert torch.allclose(gram.double(), gram_matrix(feats.double()), rtol=1e-2, atol=1)


# -- the other parts


def fda():
    phi = new_loss_network().to(GPU)
    assert choose_target(photos(), phi) in range(4)
    made = FDA(width=0.125, size=48).fit(photos(), steps=3, bs=2, checkpoint=HERE / 'fda.pt', progress=False)
    assert made.net.mean.device == GPU and len(made.terms) == 3
    half = FDA(photos()[0], width=0.125, size=48, precision='fp16')
    half.fit(photos(), steps=3, bs=2, precision='fp16', progress=False)
    for f in (made, half, ColourMatch(photos()[0]), FourierSwap(photos()[0])):
        out = f.run([cv2.imread(p) for p in photos(2)])
        assert len(out) == 2 and out[0].dtype == np.uint8
    made.save(HERE / 'fda.safetensors')
    again = FDA.load(HERE / 'fda.safetensors')
    assert np.array_equal(again.run([cv2.imread(photos()[0])])[0], made.run([cv2.imread(photos()[0])])[0])
    cut = FDA(photos()[0], width=0.125, size=48).fit(photos(), steps=6, bs=2, cbs=[CancelAt(2)], progress=False)
    assert len(cut.terms) == cut.info['steps'] == 2
    LightFDA(photos()[0], size=48).fit(photos(), steps=2, bs=2, progress=False)
    assert gram_gap(photos(2), mean_grams(photos(2), phi), phi) < 1e-6
    transformed = made.transform(probes().head(3), HERE / 'transformed', progress=False)
    assert len(transformed) == 3


def divergence():
    a, b = (picture_batches(probes().query(f'split == {s!r}'), column='frame_path') for s in ('train', 'test'))
    assert len(feature_divergence(network(), a, b)) == 13
    assert all(isinstance(m, np.ndarray) for m in channel_means(network(), torch.rand(3, 3, 48, 48)).values())


def recognition_and_evaluation():
    scores = score_samples(network(), probes(), progress=False)
    cpu = score_samples(network().cpu(), probes(), progress=False)
    assert np.allclose(scores['score'], cpu['score'], atol=1e-3)
    assert len(gallery_probe(network(), pick_gallery(probes().query("split == 'train'")), split=None))
    paths = photos(6)
    pairs = dict(path_a=paths[:4] * 2, path_b=paths[:2] * 4, same=[1, 0] * 4, fold=[0] * 4 + [1] * 4)
    assert verify_pairs(network(), pd.DataFrame(pairs)).accuracy >= 0


def the_experiment_in_vivo():
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    settings = IN_VIVO | dict(steps=3, size=32, bs=8, bf16=has_bf16)
    pictures = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    arm = dict(pull=6.0, noisy_psi=False)
    if not has_bf16:
        with pytest.raises(ValueError, match='only emulated on this card'):
            train_in_vivo(pictures, torch.arange(16) % 2, arm, 0, IN_VIVO, 'cuda')
    net, terms = train_in_vivo(pictures, torch.arange(16) % 2, arm, 0, settings, 'cuda')
    assert next(net.parameters()).is_cuda and np.isfinite(list(terms.values())).all()
    logits = live_logits(net, pictures)
    assert np.allclose(logits, live_logits(net.cpu(), pictures), atol=1e-2)


def files_of_models():
    net = network()
    path = save_model(net, HERE / 'm.safetensors', subjects=list('abcd'), size=48, margin=0.3)
    again = load_model(path)[0]
    assert next(again.parameters()).device.type == 'cpu'
    assert all(torch.equal(a.cpu(), b) for a, b in zip(net.state_dict().values(), again.state_dict().values()))


def authenticate_and_export():
    adapter = FDA.load(HERE / 'fda.safetensors')
    auth = FaceAuthenticator(
        network(), dict(size=48, margin=0.3), adapter, live_threshold=0.5, similarity_threshold=0.5
    )

    def answers():
        adapted = adapter.run(pictures)
        return [*adapted, *both_answers(auth.model, np.stack(adapted), np.stack(pictures))]

    pictures = [cv2.imread(p) for p in photos(2)]
    before = answers()
    assert auth.verify(pictures[0], live_only=True).code
    with patch('torch.onnx.export', side_effect=KeyboardInterrupt), pytest.raises((KeyboardInterrupt, ImportError)):
        export_onnx(auth, HERE / 'm.onnx')  # what is exported computes on the CPU, and goes back
    assert next(auth.model.parameters()).device == GPU
    assert all(np.array_equal(a, b) for a, b in zip(before, answers()))


def the_main_job():
    done = reproduce(
        'tiny',
        HERE / 'run',
        progress=False,
        data=dict(train=['webcam']),
        training=dict(steps=4, bs=8, precision='fp16', width=0.0625),
        adaptation=dict(steps=2, width=0.125, train=['webcam']),
    )
    assert done['report'].is_file() and len(done['scores']) == 4 and not done['notes']['not_measured']


CHECKS = [
    devices_do_not_mix,
    places_of_tensors,
    modules_and_optimisers,
    training_in_float32,
    a_cancelled_fit_is_read_and_checked,
    training_that_goes_on,
    training_in_fp16,
    training_in_fp16_that_goes_on,
    an_interrupt_leaves_no_autocast,
    maps_stay_channels_last,
    steps_that_overflow_are_skipped,
    bf16_that_is_emulated_is_refused,
    recomputed_and_accumulated,
    other_readings_of_tpc,
    sums_in_float32,
    fda,
    divergence,
    recognition_and_evaluation,
    the_experiment_in_vivo,
    files_of_models,
    authenticate_and_export,
    the_main_job,
]


if __name__ == '__main__':
    out, wanted, results = Path(sys.argv[1]), sys.argv[2:], {}
    for check in CHECKS:
        if wanted and check.__name__ not in wanted:
            continue
        start = time.process_time()
        try:
            check()
            results[check.__name__] = ''
        except BaseException:
            results[check.__name__] = traceback.format_exc()
        print(
            f'{time.process_time() - start:6.1f} s  {"failed" if results[check.__name__] else "ok":6}  {check.__name__}'
        )
        out.write_text(json.dumps(results))
    folder.cleanup()
