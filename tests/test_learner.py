"The Learner: the loss, the schedule, runs that are killed, numbers that are none, and what fastai users try."

import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from copy import copy, deepcopy
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.vision.all import (
    Adam,
    AvgMetric,
    Callback,
    CancelEpochException,
    CancelFitException,
    CancelTrainException,
    CutMix,
    EarlyStoppingCallback,
    GradientAccumulation,
    GradientClip,
    MixedPrecision,
    Interpretation,
    MixUp,
    ReduceLROnPlateau,
    RocAucBinary,
    SaveModelCallback,
    accuracy,
    aug_transforms,
)

from gfa_fastai.data import UNKNOWN, gfa_dataloaders
from gfa_fastai.inputs.frames import extract_frames
from gfa_fastai.learner import (
    GFALoss,
    HalveLR,
    SpoofEER,
    TrackTerms,
    gfa_learner,
    id_accuracy,
    on_head,
    plot_terms,
    spoof_accuracy,
    terms_table,
    tf_adam,
)
from gfa_fastai.train.checkpoint import fit_resumable, load_checkpoint, save_checkpoint
from gfa_fastai.model import GFACNN
from gfa_fastai.inputs.models import load_model, save_model
from gfa_fastai.synth.benchmark import make_synthpad
from gfa_fastai.tpc import TPCLoss
from gfa_fastai.train.guards import guarded
from gfa_fastai.train.precision import CPUAutocast, precision_callbacks, precision_of
from gfa_fastai.use import predict as predict_module

matplotlib.use('agg')
pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture(scope='module')
def frames(tmp_path_factory):
    root = tmp_path_factory.mktemp('learner')
    samples = (
        make_synthpad(root / 's', 'tiny', domains=['webcam'], subjects=(6, 4, 2), frames=1, workers=1, progress=False)
        .query("role == 'probe'")
        .reset_index(drop=True)
    )
    return extract_frames(samples, root / 'cache', size=32, progress=False)


@pytest.fixture
def new(frames, tmp_path):
    "Make a small learner without bars: `data` for the DataLoaders, `net` for the network, `guards` for guarded."

    def make(data={}, net={}, guards={}, **kw):
        dls = gfa_dataloaders(frames, **{**dict(bs=8, device=torch.device('cpu')), **data})
        small = partial(GFACNN, **{**dict(width=0.0625, pool=1), **net})
        learn = guarded(gfa_learner(dls, **{**dict(model=small, path=tmp_path), **kw}), **guards)
        learn.logger = lambda *args: None
        return learn.remove_cbs([cb for cb in learn.cbs if cb.name == 'progress'])

    return make


def weights(learn):
    return {k: v.clone() for k, v in learn.model.state_dict().items()}


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


def fingerprint(learn, epochs):
    "All that a run ends in, as a short text."
    h = hashlib.sha256(b''.join(v.detach().contiguous().numpy().tobytes() for v in learn.model.state_dict().values()))
    h.update(b''.join(np.asarray(v).tobytes() for s in learn.opt.state_dict()['state'].values() for v in s.values()))
    h.update(terms_table(learn).to_csv().encode())
    h.update(json.dumps([learn.halve_lr.steps, epochs]).encode())
    return h.hexdigest()


# -- loss


def formula(pred, label, subject, l1=0.1, l2=2.5e-5, tpc='all', reduction='sum'):
    "Eq. 1 by hand, in float64."
    a, b, x = (o.double() for o in pred)
    n, known = len(x), subject != UNKNOWN
    pairs = (
        [(i, j) for i in range(n) for j in range(n) if i != j]
        if tpc == 'all'
        else [(i, i + n // 2) for i in range(n // 2)]
    )
    t = sum((x[i] - x[j]).pow(2).sum() for i, j in pairs) / (len(pairs) if reduction == 'mean' else 1)
    return F.cross_entropy(a, label) + l1 * (F.cross_entropy(b[known], subject[known]) if known.any() else 0) + l2 * t


def batch(n=7, d=33, known=True, seed=0, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    subject = torch.randint(5, (n,), generator=g)
    subject[::3] = UNKNOWN
    return (
        (torch.randn(n, 2, generator=g), torch.randn(n, 5, generator=g), scale * torch.rand(n, d, generator=g)),
        torch.randint(2, (n,), generator=g),
        subject if known else torch.full_like(subject, UNKNOWN),
    )


@pytest.mark.parametrize('pairs', ['all', 'halves'])
@pytest.mark.parametrize('reduction', ['sum', 'mean'])
@pytest.mark.parametrize('known', [True, False])
def test_loss_is_the_formula(pairs, reduction, known):
    pred, label, subject = batch(8, known=known)
    loss = GFALoss(TPCLoss(pairs, reduction), lambda_id=0.3, lambda_tpc=1e-2)
    want = formula(pred, label, subject, 0.3, 1e-2, pairs, reduction)
    torch.testing.assert_close(loss(pred, label, subject).double(), want, rtol=1e-6, atol=1e-7)
    rows = loss(pred, label, subject, reduction='none')
    assert rows.shape == (8,)
    torch.testing.assert_close(rows.mean().double(), want, rtol=1e-6, atol=1e-7)
    total = sum(w * getattr(loss, k) for k, w in loss.weights().items())
    torch.testing.assert_close(total.double(), want, rtol=1e-6, atol=1e-7)
    assert not any(getattr(loss, k).requires_grad for k in ('anti', 'ident', 'tpc'))


def test_gradient_is_that_of_the_formula():
    pred, label, subject = batch()
    pred = [o.double().requires_grad_() for o in pred]
    want = torch.autograd.grad(formula(pred, label, subject, l2=1e-2), pred)
    got = torch.autograd.grad(GFALoss(lambda_tpc=1e-2)([o.float() for o in pred], label, subject), pred)
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_without_tpc_it_is_logged_and_has_no_gradient():
    pred, label, subject = batch()
    pred[2].requires_grad_()
    loss = GFALoss(tpc=False)
    torch.testing.assert_close(
        loss(pred, label, subject).double(), formula(pred, label, subject, l2=0).detach(), rtol=1e-6, atol=1e-7
    )
    assert not loss(pred, label, subject).requires_grad and loss.tpc > 0 and loss.weights()['tpc'] == 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_sums_are_in_float32(dtype):
    pred, label, subject = batch(32, 4096, scale=100.0)
    half = [o.to(dtype) for o in pred]
    with torch.autocast('cpu', torch.bfloat16):
        got = GFALoss()(half, label, subject)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), formula(half, label, subject), rtol=1e-5, atol=1e-5)


def test_tpc_of_other_batch_sizes_is_brought_to_that_of_training():
    pred, label, subject = batch(64, 50)

    def tpc(n, bs=None, **kw):
        loss = GFALoss(TPCLoss(**kw))
        loss.bs = bs
        loss([o[:n] for o in pred], label[:n], subject[:n])
        return loss.tpc.item()

    assert tpc(16, bs=16) == tpc(16) and tpc(1, bs=16) == 0
    assert tpc(64, bs=16) == pytest.approx(tpc(64) * 16 * 15 / (64 * 63)) and tpc(
        64, bs=16, pairs='halves'
    ) == pytest.approx(tpc(64, pairs='halves') / 4)
    for kw in (dict(reduction='mean'), dict(scale='paper')):
        assert tpc(64, bs=16, **kw) == tpc(64, **kw)


# -- optimiser, schedule, terms


def test_paper_values_are_the_defaults(frames):
    with torch.device('meta'):
        model = GFACNN(4)
    dls = gfa_dataloaders(frames, device=torch.device('cpu'))
    loss = GFALoss()
    assert (loss.use_tpc, loss.lambda_id, loss.lambda_tpc, loss.tpc_func.pairs, loss.tpc_func.reduction) == (
        True,
        0.1,
        2.5e-5,
        'all',
        'sum',
    )
    import inspect

    got = {k: p.default for k, p in inspect.signature(gfa_learner).parameters.items()}
    assert (got['lr'], got['halve_every'], dls.train.bs, HalveLR().every) == (3e-4, 2000, 32, 2000)
    assert {k: model.config[k] for k in ('width', 'dropout', 'fc_dim')} == dict(width=1.0, dropout=0.5, fc_dim=4096)


def test_adam_has_tensorflows_constants(new):
    learn = new()
    learn.fit(1)
    for h in learn.opt.hypers:
        assert (h['mom'], h['sqr_mom'], h['eps'], h['wd'], h['fused']) == (0.9, 0.999, 1e-8, 0.0, True)
    assert type(learn.opt.opt) is torch.optim.Adam and len(learn.opt.hypers) == 2


def test_adam_says_when_it_is_not_fused(monkeypatch):
    real = torch.optim.Adam

    def old(*args, fused=None, **kw):
        if fused:
            raise RuntimeError('`fused=True` requires all the params to be on cuda')
        return real(*args, **kw)

    monkeypatch.setattr(torch.optim, 'Adam', old)
    with pytest.warns(UserWarning, match='no fused Adam'):
        opt = tf_adam([torch.nn.Parameter(torch.ones(2))])
    assert not opt.opt.param_groups[0]['fused']


def test_equals_a_loop_by_hand(new):
    learn = new(halve_every=3, lr=1e-3)
    hand, batches = deepcopy(learn.model), [learn.dls.train.one_batch() for _ in range(8)]
    opt, loss = torch.optim.Adam(hand.parameters(), lr=1e-3, fused=True), GFALoss()
    torch.manual_seed(5)
    hand.train()
    for i, (frame, face, label, subject) in enumerate(batches):
        opt.param_groups[0]['lr'] = 1e-3 * 0.5 ** (i // 3)
        loss(hand(frame, face), label, subject).backward()
        opt.step()
        opt.zero_grad()

    class Fixed(list):
        n_inp = 2

    learn.dls.loaders[0] = Fixed(batches)
    torch.manual_seed(5)
    learn.fit(1)
    assert same(hand.state_dict(), weights(learn))


def test_halving_counts_over_fits(new):
    learn = new(halve_every=4)
    n = len(learn.dls.train)
    learn.fit(1)
    learn.fit_one_cycle(1)
    learn.fit(1, 1e-3)
    learn.fit(2)
    rates = [3e-4] * n + [1e-3] * n + [3e-4] * 2 * n
    plain = learn.terms[:n] + learn.terms[2 * n :]
    assert [o['lr'] for o in plain] == [
        r * 0.5 ** (i // 4) for i, r in enumerate(rates)
    ] and learn.halve_lr.steps == 4 * n
    assert learn.recorder.hps['lr'] == [o['lr'] for o in plain[2 * n :]]
    assert [h['mom'] for h in learn.opt.hypers] == [0.9, 0.9]
    with pytest.raises(ValueError, match='halve_every is 0'):
        new(halve_every=0)
    for kwargs, words in (
        (dict(lr=-1), 'lr is -1'),
        (dict(lr='fast'), "lr is 'fast'"),
        (dict(lr=None), 'lr is None'),
        (dict(seed='q'), "seed is 'q'; it is a whole number"),
        (dict(seed=-1), 'seed is -1'),
        (dict(seed=1.5), 'seed is 1.5'),
        (dict(halve_every='x'), "halve_every is 'x'"),
        (dict(halve_every=float('nan')), 'halve_every is nan'),
        (dict(model='x'), 'model is str'),
        (dict(model=torch.nn.Linear(2, 2)), 'model is Linear'),
        (dict(loss=GFALoss(lambda_tpc=-1)), 'lambda_tpc is -1'),
        (dict(loss=GFALoss(lambda_id=float('nan'))), 'lambda_id is nan'),
        (dict(model=partial(GFACNN, width=0.125, pool=1, fc_dim=16, dropout=1)), 'dropout is 1'),
    ):
        with pytest.raises(ValueError, match=words):
            new(**kwargs)


def test_discriminative_rates_are_halved_too(new):
    learn = new(halve_every=2)
    learn.fit(1, slice(1e-5, 1e-3))
    k = (len(learn.dls.train) - 1) // 2
    assert [h['lr'] for h in learn.opt.hypers] == pytest.approx([1e-5 * 0.5**k, 1e-3 * 0.5**k])


def test_accumulated_steps_count_once(new):
    learn = new(cbs=GradientAccumulation(16), halve_every=2)
    learn.fit(2)
    assert learn.halve_lr.steps == len(learn.dls.train) and len(learn.terms) == 2 * len(learn.dls.train)


def test_terms(new):
    learn = new(loss=GFALoss(lambda_id=0.2, lambda_tpc=1e-3))
    learn.fit(2)
    t = terms_table(learn)
    assert (
        len(t) == 2 * len(learn.dls.train)
        and t.index.name == 'step'
        and list(t.columns[:6]) == ['anti', 'ident', 'tpc', 'fc2_std', 'id_accuracy', 'lr']
    )
    np.testing.assert_allclose(t[['w_anti', 'w_ident', 'w_tpc']], t[['anti', 'ident', 'tpc']] * [1, 0.2, 1e-3])
    np.testing.assert_allclose(t['tpc'], 2 * 8 * 7 * learn.model.config['fc_dim'] * t['fc2_std'] ** 2, rtol=1e-4)
    axs = plot_terms(t)
    assert [len(ax.lines) for ax in axs] == [3, 1] and all(
        ax.get_title() and ax.get_xlabel() and ax.get_ylabel() for ax in axs
    )
    assert len(terms_table(new())) == 0


def test_terms_without_metrics_or_with_others(new):
    learn = new(metrics=None)
    learn.fit(1)
    assert len(learn.terms) == len(learn.dls.train) and list(learn.recorder.metric_names) == [
        'epoch',
        'train_loss',
        'valid_loss',
        'time',
    ]
    learn = new(metrics=[SpoofEER, on_head(accuracy, 0)])
    learn.fit(1)
    assert len(learn.recorder.values[0]) == 4


# -- metrics


def test_metrics_against_by_hand(new):
    learn = new(lr=1e-3)
    learn.metrics = [*learn.metrics, id_accuracy]
    learn.fit(1)
    (spoof, who, _), (label, subject) = learn.get_preds()
    loss, acc, eer, ident = learn.validate()
    assert acc == pytest.approx((spoof.argmax(1) == label).float().mean().item()) and np.isnan(float(ident))
    s, l = (spoof[:, 1] - spoof[:, 0]).numpy(), label.numpy()
    from gfa_fastai.metrics import eer as eer_of

    assert eer == pytest.approx(eer_of(s[l == 0], s[l == 1]), abs=1e-6)
    (_, who, _), (_, subject) = learn.get_preds(0)
    known = subject != UNKNOWN
    assert 0 < known.sum() < len(known)
    met, dl = AvgMetric(id_accuracy), learn.dls.train.new(shuffle=False, drop_last=False, bs=1000)
    assert learn.validate(dl=dl)[3] == pytest.approx((who.argmax(1) == subject)[known].float().mean().item())


def test_eer_where_it_is_not_defined(new, frames):
    learn = new()
    learn.fit(1)
    assert learn.validate(dl=learn.test_dl(frames[(frames.split == 'test') & (frames.label == 'live')]))[2] is None


# -- numbers that are none


class Spoil(Callback):
    "Do something to the learner at one step."

    order = 1

    def __init__(self, at, event, func):
        self.at, self.func = at, func
        setattr(self, event, self.go)

    def go(self):
        if self.training and self.train_iter == self.at:
            self.func(self)


def nan_frame(cb):
    cb.xb[0][5, 0, 3, 3] = float('nan')


def nan_face_of_nobody(cb):
    cb.xb[1][2] = float('nan')
    cb.yb[1][2] = UNKNOWN


def nan_weight(cb):
    with torch.no_grad():
        cb.model.spoof_head[0].weight[0, 0] = float('nan')


def inf_gradient(cb):
    cb.model.id_head[3].weight.grad[1] = float('inf')


def huge_features(cb):
    cb.learn.pred = (cb.pred[0], cb.pred[1], cb.pred[2] * 1e30)


@pytest.mark.parametrize(
    'event, func, message',
    [
        (
            'before_batch',
            nan_frame,
            r'L_anti and L_tpc not finite at step 2 \(learning rate 0.0003\). The frame in row\(s\) \[5\]',
        ),
        (
            'before_batch',
            nan_face_of_nobody,
            r'L_ident not finite at step 2 .*The face in row\(s\) \[2\].*mend or remove',
        ),
        (
            'before_batch',
            nan_weight,
            r'L_anti and L_tpc not finite at step 2 .*Weights are no longer finite \(spoof_head.0.weight\).*lower',
        ),
        (
            'before_step',
            inf_gradient,
            r'L_ident not finite at step 3 .*Weights are no longer finite \(id_head.3.weight\)',
        ),
        (
            'after_pred',
            huge_features,
            r'L_tpc not finite at step 2 .*Images and weights are finite, so it overflowed.*lambda_tpc',
        ),
    ],
)
def test_stops_on_nan(new, event, func, message):
    learn = new(cbs=Spoil(2, event, func))
    with pytest.raises(FloatingPointError, match=message):
        learn.fit(1)


def test_stops_on_nan_in_the_last_step(new, tmp_path):
    learn = new()
    last = len(learn.dls.train) - 1
    learn.add_cb(Spoil(last, 'before_step', inf_gradient))
    with pytest.raises(FloatingPointError, match=rf'after step {last + 1} \(id_head.3.weight.*GradientClip'):
        learn.fit(1)
    learn = new(cbs=Spoil(2, 'before_step', inf_gradient))
    with pytest.raises(FloatingPointError, match='Weights are not finite after step 3'):
        fit_resumable(learn, 1, tmp_path / 'r.pt', every=0)
    assert all(
        v.isfinite().all() for v in torch.load(tmp_path / 'r.pt', weights_only=True)['model'].values()
    )  # the checkpoint is that of step 2


def test_after_a_nan_stop_autocast_is_off(new):
    learn = new(guards=dict(precision='bf16'), cbs=Spoil(1, 'before_batch', nan_frame))
    with pytest.raises(FloatingPointError):
        learn.fit(1)
    assert not torch.is_autocast_enabled('cpu')
    assert TrackTerms.order > MixedPrecision.order  # on CUDA too: its after_loss leaves autocast


def test_after_an_interrupt_in_the_forward_pass_autocast_is_off(new):
    "Also in a batch that is left out, and in a fit inside an autocast of the caller, which stays."

    def interrupt(*args):
        raise KeyboardInterrupt

    learn = new(guards=dict(precision='bf16'))
    hook = learn.model.avgpool.register_forward_hook(interrupt)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            learn.fit(1)
        assert not torch.is_autocast_enabled('cpu')
    with torch.autocast('cpu', torch.float16), pytest.raises(KeyboardInterrupt):
        try:
            learn.validate()
        finally:
            assert torch.is_autocast_enabled('cpu') and torch.get_autocast_dtype('cpu') == torch.float16
    assert torch.autocast_increment_nesting() == 1, 'an autocast stays open: the weights of 16 bits grow old'
    torch.autocast_decrement_nesting()
    hook.remove()
    want = new(guards=dict(precision='bf16'))
    learn.model.load_state_dict(want.model.state_dict())  # with the old copies in 16 bits it would not learn
    for one in (learn, want):
        one.dls.train.rng = random.Random(1)
        torch.manual_seed(1)
        one.opt = None
        one.fit(1)
    assert same(weights(learn), weights(want))


# -- runs that are killed

SETTINGS = dict(plain={}, balanced=dict(balanced=True, flips=1), workers=dict(num_workers=2, balanced=True))


def run(make, path, every=0, n=3, data={}, precision=None, cbs=None, aug=False):
    torch.set_num_threads(1)
    if aug:
        data = dict(data, batch_tfms=aug_transforms(max_rotate=5, max_warp=0))
    learn = make(data=data, halve_every=5, guards=dict(precision=precision), cbs=cbs)
    return learn, fit_resumable(learn, n, path, seed=3, every=every)


class KillAt(Callback):
    "SIGKILL from inside, at an event of the n-th batch from now."

    order = 80

    def __init__(self, n, event='after_step'):
        self.left = n
        setattr(self, event, self.go)

    def go(self):
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


def killed_while_saving(n):
    "Make the n-th save from now write half a file, and be killed."
    real, left = torch.save, [n]

    def save(state, path):
        if left[0] == 0:
            real(state, path)
            Path(path).write_bytes(Path(path).read_bytes()[:5000])
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        real(state, path)

    torch.save = save


def child(make, path, kill, kw):
    if kill[0] == 'save':
        killed_while_saving(kill[1])
    run(make, path, cbs=None if kill[0] == 'save' else KillAt(kill[1], kill[0]), **kw)


def in_child(*args):
    p = multiprocessing.get_context('fork').Process(target=child, args=args)
    p.start()
    p.join(60)
    return p.exitcode


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='forks')
@pytest.mark.parametrize('kind', list(SETTINGS))
def test_killed_and_resumed_is_undisturbed(new, tmp_path, kind):
    kw = dict(data=SETTINGS[kind], aug=kind != 'workers')
    want = fingerprint(*run(new, tmp_path / 'whole.pt', every=1e9, **kw))
    n = len(new(data=SETTINGS[kind]).dls.train)
    for kill in [('after_step', n + 2), ('save', 2), ('before_validate', 0), ('after_backward', 1), ('save', 0)][
        : 3 if kind == 'workers' else 5
    ]:
        assert in_child(new, tmp_path / 'run.pt', kill, kw) == -signal.SIGKILL, kill
        if kill[0] == 'save':  # and the checkpoint before it is whole
            assert [p.stat().st_size for p in tmp_path.glob('.part-*run.pt')] == [5000]
    assert fingerprint(*run(new, tmp_path / 'run.pt', **kw)) == want
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ['run.pt', 'whole.pt']


def test_killed_in_bf16_and_at_epochs_only(new, tmp_path):
    want = fingerprint(*run(new, tmp_path / 'whole.pt', precision='bf16', every=0))
    assert (
        in_child(new, tmp_path / 'run.pt', ('after_step', len(new().dls.train) + 3), dict(precision='bf16', every=1e9))
        == -signal.SIGKILL
    )
    assert torch.load(tmp_path / 'run.pt', weights_only=True)['done'] == (
        0,
        0,
    )  # that late, nothing but the start was saved
    assert fingerprint(*run(new, tmp_path / 'run.pt', precision='bf16', every=1e9)) == want


SCRIPT = '''
import sys, json; sys.path.insert(0, {tests!r}); sys.path.insert(0, {root!r})
import pandas as pd, torch, test_learner as t
from functools import partial
from gfa_fastai.data import gfa_dataloaders
from gfa_fastai.learner import gfa_learner
from gfa_fastai.model import GFACNN
frames = pd.read_pickle({frames!r})
def new(data, guards, **kw):
    dls = gfa_dataloaders(frames, bs=8, device=torch.device('cpu'), **data)
    learn = gfa_learner(dls, partial(GFACNN, width=.0625, pool=1), **kw)
    learn.logger = lambda *args: None
    return learn.remove_cbs([cb for cb in learn.cbs if cb.name == 'progress'])
print(t.fingerprint(*t.run(new, {path!r}, n=12)))
'''


def test_killed_from_outside_and_resumed_in_another_process(new, frames, tmp_path):
    frames.to_pickle(tmp_path / 'frames.pkl')
    path = tmp_path / 'run.pt'
    script = SCRIPT.format(
        tests=str(Path(__file__).parent),
        root=str(Path(__file__).parents[1]),
        frames=str(tmp_path / 'frames.pkl'),
        path=str(path),
    )
    p = subprocess.Popen(
        [sys.executable, '-W', 'ignore', '-c', script],
        stdout=subprocess.PIPE,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    while p.poll() is None and not (path.exists() and torch.load(path, weights_only=True)['done'] > (0, 0)):
        time.sleep(0.01)
    p.kill()
    assert p.wait() == -signal.SIGKILL
    assert (0, 0) < torch.load(path, weights_only=True)['done'] < (12, 0)
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', script],
        capture_output=True,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == fingerprint(*run(new, tmp_path / 'whole.pt', every=1e9, n=12))


class CtrlC(Callback):
    def __init__(self, n):
        self.left = n

    def after_backward(self):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1


@pytest.mark.parametrize('at', [0, 6])
def test_interrupted_and_called_again_on_the_same_learner(new, tmp_path, at):
    want = fingerprint(*run(new, tmp_path / 'whole.pt'))
    learn = new(halve_every=5)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), learn.added_cbs(CtrlC(at)):
            fit_resumable(learn, 3, tmp_path / 'run.pt', seed=3, every=0 if at else 1e9)
    assert fingerprint(learn, fit_resumable(learn, 3, tmp_path / 'run.pt', seed=3, every=0)) == want
    assert not any(cb.name == 'checkpoint' for cb in learn.cbs)


def test_finished_run_is_loaded_or_made_longer(new, tmp_path):
    whole = fingerprint(*run(new, tmp_path / 'whole.pt', n=3))
    learn, epochs = run(new, tmp_path / 'run.pt', n=2)
    again, epochs2 = run(new, tmp_path / 'run.pt', n=2)
    assert fingerprint(learn, epochs) == fingerprint(again, epochs2) and len(epochs) == 2 and len(epochs[0]) == 3
    assert fingerprint(*run(new, tmp_path / 'run.pt', n=3)) == whole
    with pytest.raises(ValueError, match='run.pt is of a run that has 3 epochs and more'):
        run(new, tmp_path / 'run.pt', n=2)


def test_accumulated_gradients_survive(new, tmp_path):
    def go(path, kill=None):
        return run(
            lambda **kw: new(**{**kw, 'cbs': [GradientAccumulation(24), *([CtrlC(kill)] if kill else [])]}), path
        )

    want = fingerprint(*go(tmp_path / 'whole.pt'))
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / 'run.pt', 10)
    assert fingerprint(*go(tmp_path / 'run.pt')) == want


@pytest.mark.parametrize(
    'other, message',
    [
        (dict(loss=GFALoss(lambda_tpc=1e-3)), 'lambda_tpc 2.5e-05 there, 0.001 here'),
        (dict(loss=GFALoss(tpc=False)), 'tpc True there, False here'),
        (dict(halve_every=9), 'halve_every 2000 there, 9'),
        (dict(data=dict(bs=4)), 'bs 8 there, 4 here'),
        (dict(data=dict(balanced=True)), 'balanced False there, True here'),
        (dict(net=dict(width=0.125)), 'width 0.0625 there'),
        (dict(loss=GFALoss(TPCLoss('halves'))), 'pairs all there, halves here'),
        (dict(guards=dict(precision='bf16')), 'precision fp32 there, bf16 here'),
        (dict(seed=4), 'seed 0 there, 4 here'),
    ],
)
def test_checkpoint_of_another_run_is_refused(new, tmp_path, other, message):
    fit_resumable(new(), 1, tmp_path / 'run.pt')
    before = (tmp_path / 'run.pt').read_bytes()
    with pytest.raises(ValueError, match=f'run.pt is of another run .*{message}.*Use another file, or remove it'):
        fit_resumable(new(**other), 1, tmp_path / 'run.pt')
    with pytest.raises(ValueError, match='seed of the run 0 there, 1 here'):
        fit_resumable(new(), 1, tmp_path / 'run.pt', seed=1)
    assert (tmp_path / 'run.pt').read_bytes() == before


@pytest.mark.parametrize('damage', [lambda b: b[: len(b) // 2], lambda b: b'', lambda b: b'text'])
def test_damaged_checkpoint_is_put_aside(new, tmp_path, capsys, damage):
    fit_resumable(new(), 1, tmp_path / 'run.pt')
    broken = damage((tmp_path / 'run.pt').read_bytes())
    (tmp_path / 'run.pt').write_bytes(broken)
    fit_resumable(new(), 1, tmp_path / 'run.pt')
    assert (
        'run.pt is no whole checkpoint' in capsys.readouterr().out
        and (tmp_path / 'run.pt.damaged').read_bytes() == broken
    )


STATE = dict(
    weights=dict(a=torch.arange(6.0).view(2, 3), b=torch.tensor(3), c=torch.ones(2).bfloat16()),
    done=(1, 2),
    rows=[[0.1, None], [1 / 3, 2]],
    name='x',
)


def test_checkpoint_comes_back(tmp_path):
    path = tmp_path / 'folder' / 'c.pth'
    assert load_checkpoint(path, {}) is None
    save_checkpoint(path, STATE, dict(lr=1e-3, seed=1))
    state = load_checkpoint(path, dict(seed='1', lr=0.001))
    assert all(torch.equal(state['weights'][k], v) for k, v in STATE['weights'].items())
    assert {k: state[k] for k in ('done', 'rows', 'name')} == {k: STATE[k] for k in ('done', 'rows', 'name')}
    with pytest.raises(ValueError, match='lr 0.001 there, None here; new None there, 1 here'):
        load_checkpoint(path, dict(seed=1, new=1))
    assert [p.name for p in path.parent.iterdir()] == ['c.pth']


@pytest.mark.parametrize(
    'change',
    [
        lambda s: s['weights']['a'].add_(1e-6),
        lambda s: s['rows'][1].append(0),
        lambda s: s['settings'].update(lr='2'),
        lambda s: s.pop('done'),
        lambda s: s.pop('settings'),
        lambda s: s.update(digest='0'),
    ],
)
def test_checkpoint_whose_content_has_changed_is_set_aside(tmp_path, capsys, change):
    path = tmp_path / 'c.pth'
    save_checkpoint(path, STATE, dict(lr=1))
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    assert load_checkpoint(path, dict(lr=2)) is None
    assert 'c.pth is no whole checkpoint' in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ['c.pth.damaged']


def test_checkpoint_that_runs_code_is_not_read(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'made'),)

    torch.save(dict(settings={}, x=Evil()), tmp_path / 'c.pth')
    assert load_checkpoint(tmp_path / 'c.pth', {}) is None
    assert not (tmp_path / 'made').exists()


def test_checkpoint_of_version_1():
    path = Path(__file__).parent / 'golden' / 'checkpoint.pth'
    assert load_checkpoint(path, dict(lr=0.001, more='x'))['done'] == (1, 1)
    with pytest.raises(ValueError, match='lr 0.001 there, 0.002 here'):
        load_checkpoint(path, dict(lr=0.002))


def test_checkpoint_that_cannot_be_written(new, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(OSError):
        fit_resumable(new(), 1, tmp_path / 'file' / 'run.pt')
    learn = new()

    def full(state, path):
        Path(path).write_bytes(b'half')
        raise OSError('no space left on device')

    with pytest.MonkeyPatch.context() as m, pytest.raises(OSError, match='no space'):
        m.setattr(torch, 'save', full)
        fit_resumable(learn, 1, tmp_path / 'run.pt')
    assert not list(tmp_path.glob('run.pt*'))


def test_trackers_do_not_go_with_checkpoints(new, tmp_path):
    with pytest.raises(ValueError, match='save_model: what it has seen is not in the checkpoint'):
        fit_resumable(new(cbs=SaveModelCallback()), 1, tmp_path / 'run.pt')


def test_saving_takes_little_time(new, tmp_path, monkeypatch):
    saves, real = [], torch.save

    def slow(state, path):
        saves.append(time.monotonic())
        time.sleep(0.1)
        real(state, path)

    monkeypatch.setattr(torch, 'save', slow)
    start = time.monotonic()
    fit_resumable(new(), 6, tmp_path / 'run.pt', every=0.01)
    assert len(saves) <= 2 + (time.monotonic() - start) / 2


def test_seeds(new):
    a, b, c = new(), new(), new(seed=1)
    assert same(weights(a), weights(b)) and not same(weights(a), weights(c))
    a = new()
    a.fit(1)
    b = new()
    b.fit(1)
    assert same(weights(a), weights(b))


# -- what fastai users try


@pytest.mark.parametrize('show_plot', [False, True])
def test_lr_find_changes_nothing(new, show_plot):
    learn = new(halve_every=3)
    learn.fit(1)
    before, state, terms, steps = (
        weights(learn),
        deepcopy(learn.opt.state_dict()),
        list(learn.terms),
        learn.halve_lr.steps,
    )
    assert 1e-7 < learn.lr_find(num_it=30, show_plot=show_plot).valley < 10
    assert same(before, weights(learn)) and terms == learn.terms and steps == learn.halve_lr.steps
    for a, b in zip(state['state'].values(), learn.opt.state_dict()['state'].values()):
        assert all(torch.equal(a[k], b[k]) for k in a)
    n = len(learn.terms)
    learn.fit(1)
    assert [o['lr'] for o in learn.terms[n:]] == [3e-4 * 0.5 ** ((n + i) // 3) for i in range(n)]


def test_lr_find_that_explodes(new):
    learn = new(guards=dict(precision='bf16'), cbs=Spoil(12, 'before_step', inf_gradient))
    before = weights(learn)
    learn.lr_find(num_it=30, show_plot=False)
    assert same(before, weights(learn)) and learn.terms == [] and not torch.is_autocast_enabled('cpu')


def test_other_fits(new):
    learn = new()
    n = len(learn.dls.train)
    learn.fit_one_cycle(1, 1e-3)
    assert (
        max(o['lr'] for o in learn.terms) == pytest.approx(1e-3, rel=0.1)
        and learn.terms[0]['lr'] == pytest.approx(4e-5)
        and set(learn.recorder.hps) == {'lr', 'mom'}
    )
    learn.fit_flat_cos(1)
    learn.fine_tune(1, freeze_epochs=1)
    learn.fit(1)
    assert learn.halve_lr.steps == n and len(learn.terms) == 5 * n


def test_freeze_is_of_the_trunk(new):
    learn = new()
    learn.freeze()
    before = weights(learn)
    learn.fit(1)
    for k, v in weights(learn).items():
        assert torch.equal(v, before[k]) == (k.startswith('trunk') or k in ('mean', 'std')), k
    learn.unfreeze()
    learn.fit(1)
    assert not torch.equal(before['trunk.0.weight'], learn.model.trunk[0].weight)


def test_summary(new):
    learn = new()
    text = learn.summary()
    learn.fit(1)
    for part in (
        'GFACNN (Input shape: 8',
        'Conv2d',
        f'Total params: {sum(p.numel() for p in learn.model.parameters()):,}',
        'GFALoss',
        'TrackTerms',
    ):
        assert part in text
    assert 'Model unfrozen' in learn.summary()


def test_get_preds(new):
    learn = new()
    learn.fit(1)
    (spoof, who, fc2), (label, subject), decoded, losses = learn.get_preds(with_loss=True, with_decoded=True)
    n = len(learn.dls.valid_ds)
    assert spoof.shape == (n, 2) and who.shape == (n, 6) and fc2.shape == (n, 256) and losses.shape == (n,)
    torch.testing.assert_close(spoof.sum(1), torch.ones(n))
    torch.testing.assert_close(who.sum(1), torch.ones(n))
    assert torch.equal(decoded[0], spoof.argmax(1)) and torch.equal(decoded[1], who.argmax(1))
    assert losses.mean().item() == pytest.approx(learn.validate()[0], rel=1e-5)
    assert learn.loss_func.reduction == 'mean'


@pytest.mark.parametrize('with_labels', [True, False])
def test_new_rows(new, frames, with_labels):
    learn, test = new(), frames[frames.split == 'test']
    out = learn.get_preds(dl=learn.test_dl(test, with_labels=with_labels), with_decoded=True)
    assert len(out[0][0]) == len(test) == len(out[2][0])
    if with_labels:
        assert out[1][0].tolist() == (test.label == 'live').astype(int).tolist() and set(out[1][1].tolist()) == {
            UNKNOWN
        }
    with pytest.raises(ValueError, match='frame_path, face_path missing. Run extract_frames'):
        learn.test_dl(test.drop(columns=['frame_path', 'face_path']))


def test_valid_loss_does_not_depend_on_the_validation_batch(new):
    learn = new(loss=GFALoss(lambda_tpc=1e-1))
    learn.fit(1)
    small, large = (
        learn.validate(dl=learn.dls.valid.new(bs=b))[0] for b in (12, 24)
    )  # two people and four: pairs within a person are closer
    assert large == pytest.approx(small, rel=0.2) and learn.loss_func.tpc * 1e-1 > 0.1 * learn.loss_func.anti


@pytest.mark.parametrize('metric', [accuracy, RocAucBinary(), [spoof_accuracy, accuracy]])
def test_stock_metrics_are_refused_before_the_first_step(new, metric):
    learn = new(metrics=metric)
    with pytest.raises(ValueError, match='on_head'):
        learn.fit(1)
    assert not learn.terms


def test_show_results(new):
    new().show_results(max_n=3)
    new().show_results(ds_idx=0, max_n=3)
    assert 'says' in matplotlib.pyplot.gcf().axes[0].get_title()


def test_plot_loss(new):
    learn = new()
    learn.fit(3)
    assert len(learn.recorder.plot_loss(skip_start=0, show_epochs=True).lines) >= 2


def test_predict(new, frames):
    learn = new()
    learn.fit(1)
    row = frames.iloc[3]
    image = np.asarray(matplotlib.pyplot.imread(row.path))
    answers = [learn.predict(o) for o in (row.path, Path(row.path), image)]
    for (said, who), (live, sure), (spoof, ident) in answers:
        assert (
            said in ('attack', 'live')
            and who in learn.dls.vocab
            and live == spoof[1].item()
            and sure == ident.max().item()
            and len(ident) == 6
        )
        assert live == pytest.approx(answers[0][1][0], abs=1e-6)
    (frame,), (face,) = ([b[0]] for b in learn.dls.valid.new(bs=1).one_batch()[:2])
    (spoof, _, _), _ = learn.get_preds()
    assert learn.predict((frame, face))[1][0] == pytest.approx(spoof[0, 1].item(), abs=1e-5)
    assert learn.predict(row.path, box=(5, 5, 30, 30))[2][1].tolist() != answers[0][2][1].tolist()


def test_predict_crops_with_the_margin_of_the_data(new, frames, monkeypatch):
    learn, seen = new(), []
    monkeypatch.setattr(
        predict_module, 'crop_face', lambda image, box, size, margin: seen.append(margin) or image[:size, :size]
    )
    learn.predict(frames.path[0])
    learn.dls.samples.attrs['margin'] = 0.7
    learn.predict(frames.path[0])
    learn.predict(frames.path[0], margin=0.1)
    assert seen == [0.3, 0.7, 0.1]


NOISE = torch.rand(3, 32, 32)


@pytest.mark.parametrize(
    'bad, message',
    [
        ('none.jpg', 'does not exist'),
        ('empty.jpg', 'empty.jpg.*empty'),
        ('text.jpg', 'text.jpg'),
        ('dot.png', '1x1 pixels'),
        (np.zeros((32, 32, 3)), 'float64'),
        (np.zeros((32, 32, 5), np.uint8), r'\(32, 32, 5\)'),
        (7, 'int'),
        ((NOISE, NOISE[0]), r'the face is torch.float32 of shape \(32, 32\); expected a tensor \(3, H, W\)'),
        ((NOISE.byte(), NOISE), 'the frame is torch.uint8 of shape'),
        ((255 * NOISE, NOISE), r'the frame has values from .* to .*\(x / 255 for 0..255\)'),
        ((NOISE, NOISE.masked_fill(NOISE > 0.9, float('nan'))), 'the face holds NaN or infinity'),
        ((NOISE, NOISE[:, :20]), 'the face has 32x20 pixels; 32 are needed'),
        ((NOISE, None), 'the face is NoneType'),
        ((NOISE, NOISE, NOISE), 'got 3 things'),
    ],
)
def test_predict_bad_input(new, tmp_path, bad, message):
    from PIL import Image

    (tmp_path / 'empty.jpg').touch()
    (tmp_path / 'text.jpg').write_text('no image')
    Image.new('RGB', (1, 1)).save(tmp_path / 'dot.png')
    with pytest.raises(ValueError, match=message):
        new().predict(tmp_path / bad if isinstance(bad, str) else bad)


def test_grey_and_rgba_files(new, tmp_path):
    from PIL import Image

    for mode in ('L', 'RGBA', 'P', 'CMYK'):
        image = Image.new(mode, (50, 40))
        path = tmp_path / f'{mode}.{"jpg" if mode == "CMYK" else "png"}'
        image.save(path)
        assert new().predict(path)[1] == new().predict(image)[1]


def test_save_and_load(new, tmp_path):
    learn = new()
    learn.fit(1)
    learn.save('kept')
    before = weights(learn)
    learn.fit(1)
    assert not same(before, weights(learn))
    assert same(before, weights(learn.load('kept'))) and same(before, weights(new().load('kept', with_opt=False)))
    other = new().load('kept')
    assert len(other.opt.state_dict()['state']) == len(learn.opt.state_dict()['state'])
    other.fit(1)


def test_export_is_refused_and_safetensors_are_offered(new, tmp_path):
    learn = new()
    with pytest.raises(NotImplementedError, match='save_model'):
        learn.export()
    learn.fit(1)  # and nothing was lost
    model, meta = load_model(save_model(learn.model, tmp_path / 'm.safetensors', subjects=list(learn.dls.vocab)))
    again = new(model=model)
    assert same(weights(learn), weights(again)) and meta['subjects'] == list(again.dls.vocab)
    again.fit(1)


@pytest.mark.parametrize('how', [copy, deepcopy])
def test_copies_are_independent(new, how):
    learn = new()
    learn.fit(1)
    learn.get_preds()
    before, terms = weights(learn), list(learn.terms)
    other = how(learn)
    other.fit(1)
    assert (
        same(before, weights(learn))
        and learn.terms == terms
        and len(other.terms) == 2 * len(terms)
        and not same(before, weights(other))
    )
    assert all(cb.learn is other for cb in other.cbs)
    learn.fit(1)
    assert other.halve_lr.steps == learn.halve_lr.steps and other.halve_lr is not learn.halve_lr


def test_interpretation(new):
    learn = new()
    learn.fit(1)
    top = Interpretation.from_learner(learn)
    losses, idx = top.top_losses(3)
    assert losses[0] == top.losses.max() and len(idx) == 3
    top.show_results(idx)


def test_tta_says_why_not(new):
    with pytest.raises(NotImplementedError, match='this network has two'):
        new().tta()


def test_bf16_on_a_cpu(new):
    learn, seen = new(guards=dict(precision='bf16')), []
    learn.model.spoof_head[0].register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    learn.fit(2)
    assert (
        set(seen) == {torch.bfloat16}
        and {p.dtype for p in learn.model.parameters()} == {torch.float32}
        and not torch.is_autocast_enabled('cpu')
    )
    exact = new()
    exact.fit(2)
    assert terms_table(learn)['anti'].iloc[0] == pytest.approx(terms_table(exact)['anti'].iloc[0], rel=0.02)
    assert (
        precision_of(learn) == 'bf16'
        and learn.to_fp32() is learn
        and not any(isinstance(cb, CPUAutocast) for cb in learn.cbs)
    )
    assert any(isinstance(cb, CPUAutocast) for cb in learn.to_bf16().to_bf16().cbs)


def test_precisions_that_there_are_not(new):
    learn = new()
    for go in (learn.to_fp16, learn.to_channelslast, lambda: new(guards=dict(precision='fp16'))):
        with pytest.raises(ValueError, match="'fp16' is not available on cpu. Use 'fp32', or 'bf16'"):
            go()
    with pytest.raises(ValueError, match="'int8'; known are"):
        new(guards=dict(precision='int8'))
    learn.to_channelslast(use_amp=False).fit(1)
    learn.to_channelslast(amp_mode='bf16').fit(1)
    assert [type(cb) for cb in precision_callbacks('fp16', torch.device('cuda'))] == [MixedPrecision]
    learn = new(cbs=MixedPrecision())
    with pytest.raises(ValueError, match="'fp16' is not available on cpu"):
        learn.fit(1)  # fastai would say nothing, and train in float32


def test_emulated_bf16_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'Tesla T4')
    with pytest.raises(ValueError, match=r"only emulated on this card \(Tesla T4\).*Use 'fp16', or 'fp32'"):
        precision_callbacks('bf16', 'cuda')
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation=True: True)
    assert [type(cb) for cb in precision_callbacks('bf16', 'cuda')] == [MixedPrecision]


def test_callbacks_that_are_refused(new):
    learn = new()
    before = weights(learn)
    for cb, message in (
        (MixUp(), 'no subject'),
        (CutMix(), 'no subject'),
        (ReduceLROnPlateau(), 'no effect'),
        (HalveLR(9), 'two HalveLR'),
        (EarlyStoppingCallback('spoof_eer'), 'comp=np.less'),
        (SaveModelCallback('spoof_eer'), 'comp=np.less'),
    ):
        with pytest.raises(ValueError, match=message):
            learn.fit(1, cbs=cb)
    assert same(before, weights(learn)) and learn.terms == []


def test_guarded_twice_is_guarded_once(new):
    learn = new()
    cbs = list(learn.cbs)
    assert guarded(learn) is learn and list(learn.cbs) == cbs


def test_without_guards_a_nan_stops_too(frames):
    dls = gfa_dataloaders(frames, bs=8, device='cpu')
    learn = gfa_learner(dls, partial(GFACNN, width=0.0625, pool=1), cbs=Spoil(2, 'before_batch', nan_frame))
    with pytest.raises(FloatingPointError, match='L_anti and L_tpc not finite at step 2 .*Lower the learning rate'):
        with learn.no_bar(), learn.no_logging():
            learn.fit(1)


def test_callbacks_that_work(new, tmp_path):
    learn = new(cbs=GradientClip(1.0))
    learn.fit(
        3,
        cbs=[
            SaveModelCallback('spoof_eer', comp=np.less, fname='best'),
            EarlyStoppingCallback('valid_loss', patience=2),
        ],
    )
    best = min(row[3] for row in learn.recorder.values)
    assert learn.validate()[2] == pytest.approx(best) and (tmp_path / 'models' / 'best.pth').exists()


def test_wd_and_moms_have_an_effect(new):
    plain, decayed = new(), new(wd=10.0)
    plain.fit(1)
    decayed.fit(1)
    assert decayed.opt.hypers[0]['wd'] == 10.0 and not same(weights(plain), weights(decayed))
    learn = new(moms=(0.8, 0.7, 0.8))
    learn.fit_one_cycle(1)
    assert learn.recorder.hps['mom'][0] == pytest.approx(0.8)


def test_another_optimiser(new, tmp_path):
    learn = new(opt_func=Adam)
    fit_resumable(learn, 1, tmp_path / 'a.pt')
    assert fit_resumable(new(opt_func=Adam), 1, tmp_path / 'a.pt')


def test_a_model_of_ones_own(new):
    model = GFACNN(6, width=0.0625, pool=1, dropout=0.0)
    assert new(model=model).model is model
    with pytest.raises(ValueError, match='tells 9 people apart, the training data has 6'):
        new(model=GFACNN(9, width=0.0625, pool=1))


@pytest.mark.parametrize(
    'loss',
    [torch.nn.CrossEntropyLoss(), torch.nn.functional.mse_loss, GFALoss('halves'), GFALoss(TPCLoss(reduction='none'))],
)
def test_a_loss_that_does_not_fit(new, loss):
    with pytest.raises(ValueError, match='Give a GFALoss whose TPC has a sum or a mean'):
        new(loss=loss)


def test_data_that_do_not_fit():
    with pytest.raises(ValueError, match='dls is list. Make it with gfa_dataloaders'):
        gfa_learner([])


def test_augmentation(new):
    learn = new(data=dict(batch_tfms=aug_transforms(max_warp=0)))
    learn.fit(1)
    assert len(learn.terms) == len(learn.dls.train)


# -- the fast path


def test_terms_read_late_are_the_same(new, tmp_path):
    "A GPU is asked for the terms every twenty steps only; nothing is lost, neither at the end nor in a checkpoint."
    runs = []
    for every in (1, 4):
        learn = new()
        learn.track_terms.every = every
        epochs = fit_resumable(learn, 2, tmp_path / f'{every}.pt', every=0)
        runs.append((fingerprint(learn, epochs), torch.load(tmp_path / f'{every}.pt', weights_only=True)['terms']))
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    learn = new()
    learn.track_terms.every = 1000
    learn.fit(1)
    assert len(learn.terms) == len(learn.dls.train)


class CancelAt(Callback):
    def __init__(self, at, error):
        self.at, self.error = at, error

    def after_batch(self):
        if self.training and self.train_iter == self.at:
            raise self.error


@pytest.mark.parametrize('error', [CancelFitException, CancelEpochException, CancelTrainException])
def test_terms_of_a_cancelled_fit_are_all_there(new, error):
    learn = new(cbs=CancelAt(5, error))
    learn.track_terms.every = 1000
    learn.fit(1)
    assert len(learn.terms) == 5 and not learn.track_terms.late


def test_terms_of_an_interrupted_fit_are_all_there(new):
    learn = new()
    learn.track_terms.every = 1000
    with pytest.raises(KeyboardInterrupt), learn.added_cbs(CancelAt(5, KeyboardInterrupt)):
        learn.fit(1)
    n = len(learn.track_terms.late)
    learn.fit(1)
    assert len(learn.terms) == n + len(learn.dls.train)


def test_terms_read_late_stop_all_the_same(new):
    class Spoil(Callback):
        def after_pred(self):
            if self.training and self.iter == 1:
                self.learn.pred = (self.pred[0] * float('nan'), *self.pred[1:])

    learn = new(cbs=Spoil())
    learn.track_terms.every = 1000
    with pytest.raises(FloatingPointError, match='L_anti not finite at step 1 '):
        learn.fit(1)


def test_no_host_synchronisation_inside_a_step(new, monkeypatch):
    "Nothing asks a tensor for its value while steps go on: what would make a CPU wait for a GPU."
    asked = []

    class Watch(Callback):
        order = -100

        def before_batch(self):
            self.learn.inside = self.training

        def after_batch(self):
            self.learn.inside = False

    learn = new(cbs=Watch())
    learn.inside, learn.track_terms.every = False, 1000
    for name in ('item', 'tolist', '__bool__', '__float__', 'numpy'):

        def spy(self, *args, _f=getattr(torch.Tensor, name), _n=name):
            if learn.inside:
                asked.append(_n)
            return _f(self, *args)

        monkeypatch.setattr(torch.Tensor, name, spy)
    learn.fit(1)
    assert not asked and learn.terms


def test_recompute_trains_the_same(new):
    plain, slow = new(net=dict(dropout=0.0)), new(net=dict(dropout=0.0), guards=dict(recompute=True))
    for learn in (plain, slow):
        learn.fit(1)
    assert same(weights(plain), weights(slow)) and plain.settings == slow.settings


def test_compiled_trains_the_same(new):
    "With a backend that changes nothing: what the compiler follows is the same computation, under the same names."
    plain, compiled = new(net=dict(dropout=0.0)), new(net=dict(dropout=0.0), guards=dict(compiled='eager'))
    for learn in (plain, compiled):
        learn.fit(1)
    a, b = weights(plain), weights(compiled)
    assert list(a) == list(b) and all(torch.allclose(a[k], b[k], atol=1e-6) for k in a)
