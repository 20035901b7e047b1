"""What version 1 computed, as numbers, and files that it wrote: later versions have to give and to read the same.

`python test_golden.py --record` writes the folder golden anew; do this with version 1 only.
float32 sums depend on the kind of processor and on the release of PyTorch. Where these are not those of the record,
the tolerance is ELSEWHERE.
"""

import functools
import hashlib
import json
import math
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.torch_core import default_device
from PIL import Image

from gfa_fastai.adapt.methods import ColourMatch, FourierSwap, Recompress, fourier_swap
from gfa_fastai.adapt.light import LightFDA, slice_grid
from gfa_fastai.adapt.by_name import load_adapter
from gfa_fastai.adapt.fast import fast_form
from gfa_fastai.use.authenticate import FaceAuthenticator, both_answers, dev_thresholds, small_model
from gfa_fastai.compare.baselines import make_baseline
from gfa_fastai.compare.comparators import Comparator
from gfa_fastai.data import UNKNOWN, gfa_dataloaders
from gfa_fastai.divergence import feature_divergence
from gfa_fastai.evaluation import compare_systems, compare_thresholds, evaluate_scores
from gfa_fastai.inputs.tables import load_scores, save_scores
from gfa_fastai.evaluation import score_samples, video_scores
from gfa_fastai.adapt.fda import FDA
from gfa_fastai.fda import LossNetwork, TransformNet, content_loss, domain_loss, gram_matrix, tv_loss
from gfa_fastai.inputs.batches import picture_batches
from gfa_fastai.inputs.frames import extract_frames
from gfa_fastai.learner import GFALoss, gfa_learner, terms_table
from gfa_fastai.train.checkpoint import fit_resumable
from gfa_fastai.train.distributed import tpc_of_parts
from gfa_fastai.train.guards import guarded
from gfa_fastai.metrics import acer, apcer, apcer_per_pai, apcer_threshold, auc, bootstrap_subjects, bpcer
from gfa_fastai.metrics import bpcer_at_apcer, eer, eer_threshold, far_frr, hter, paired_bootstrap, tpr_at_fpr
from gfa_fastai.model import GFACNN
from gfa_fastai.adapt.by_name import load_model_adapter
from gfa_fastai.inputs.models import load_model, model_header, save_model
from gfa_fastai.train.memory import training_memory
from gfa_fastai.compare.recognition import embed, gallery_probe, similarity, verify_pairs
from gfa_fastai.inputs.tables import load_samples, save_samples
from gfa_fastai.synth.benchmark import load_synthpad, make_synthpad, make_variants
from gfa_fastai.synth.faces import EVEN, NEUTRAL, draw_clothes, identity, render_scene
from gfa_fastai.tpc import TPCLoss, entropic_confusion, feature_std, mmd_loss, pairwise_confusion, paper_scale
from gfa_fastai.tpc import tpc_loss
from gfa_fastai.inputs.weights import vgg16_trunk

HERE = Path(__file__).resolve().parent
FILES = HERE / 'golden'
GOLDEN = FILES / 'numbers.json'
DOMAINS = ['webcam', 'phone']
TOLERANCE = dict(train_bf16=2e-3)  # of a part, relative and absolute
CLOSE = 1e-6  # of all others
ELSEWHERE = 1e-2  # on another kind of processor, or another release of PyTorch

pytestmark = pytest.mark.filterwarnings('ignore')


# -- shared data, made once


@functools.cache
def scratch():
    "A temporary folder."
    return tempfile.TemporaryDirectory(prefix='golden-')


def folder(name):
    "A folder in it."
    path = Path(scratch().name) / name
    path.mkdir(parents=True, exist_ok=True)
    return path


@functools.cache
def samples():
    "A small SynthPAD of two domains."
    kw = dict(seed=3, domains=DOMAINS, subjects=(4, 2, 3))
    return make_synthpad(folder('synthpad'), 'tiny', workers=1, progress=False, **kw)


@functools.cache
def frames(size=64):
    "Its frames and face crops."
    return extract_frames(samples(), folder('cache'), size=size, workers=1, progress=False)


@functools.cache
def large():
    "Pictures of three people that are large enough for a face detector."
    kw = dict(seed=5, domains=['slr'], size=192, subjects=(0, 0, 3))
    return make_synthpad(folder('large'), 'tiny', workers=1, progress=False, **kw)


@functools.cache
def shipped():
    "The shipped model, on the CPU."
    return FaceAuthenticator.load('small', device='cpu').model


def probes(domain, split, size=64):
    "Frames of one domain and split."
    df = frames(size)
    rows = (df['dataset'] == domain) & (df['split'] == split) & (df['role'] == 'probe')
    return df[rows].reset_index(drop=True)


@functools.cache
def pictures():
    "Eight pictures (48, 48, 3) of training people of the first domain, and one of the second."
    df = samples()
    train = df[df['split'] == 'train']
    own = train.loc[train['dataset'] == DOMAINS[0], 'path'].head(8)
    other = train.loc[train['dataset'] == DOMAINS[1], 'path'].head(1)
    return [np.asarray(Image.open(p).convert('RGB')) for p in [*own, *other]]


def portrait(seed, size=200):
    "A rendered person before a grey wall."
    wall = np.full((size, size, 3), 0.25, np.float32)
    clothes = draw_clothes(np.random.default_rng(seed))
    linear = render_scene(identity(seed), NEUTRAL, np.eye(3), (size / 2, 0.45 * size), size / 4, EVEN, wall, clothes)[0]
    return (255 * np.clip(linear, 0, 1) ** (1 / 2.2)).round().astype(np.uint8)


def noise(*shape, seed=0):
    "Numbers between 0 and 1."
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape, seed=0):
    "Numbers of a normal distribution."
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@functools.cache
def random_scores(seed=0, dataset='d', people=(6, 7), shift=0.0):
    "Scores of nobody's network: four videos of three frames for each person, equally hard for every seed."
    rng = np.random.default_rng(11)
    own = np.random.default_rng(seed)
    rows = []
    for s in range(sum(people)):
        split = 'dev' if s < people[0] else 'test'
        for v, pai in enumerate(['', '', 'print', 'replay']):
            centre = rng.normal(0 if pai else 1.2)
            seen = own.normal()
            for f in range(3):
                score = shift + centre + 0.7 * seen + 0.5 * own.normal()
                rows.append(
                    dict(
                        dataset=dataset,
                        split=split,
                        subject=f'{dataset}{s:03d}',
                        video=f'{dataset}{s}-{v}',
                        frame=f,
                        label='attack' if pai else 'live',
                        pai=pai,
                        score=1 / (1 + math.exp(-score)),
                    )
                )
    return pd.DataFrame(rows)


# -- numbers that JSON can hold


def numbers(x):
    "Anything as lists, dicts, texts and numbers of twelve digits."
    if isinstance(x, dict):
        return {str(k): numbers(v) for k, v in x.items()}
    if isinstance(x, pd.DataFrame):
        keep = x.reset_index() if x.index.name or isinstance(x.index, pd.MultiIndex) or x.index.dtype == object else x
        return {str(c): numbers(keep[c].tolist()) for c in keep}
    if isinstance(x, pd.Series):
        return numbers(x.to_dict())
    if isinstance(x, torch.Tensor):
        return numbers(x.detach().cpu().tolist())
    if isinstance(x, (list, tuple, np.ndarray)):
        return [numbers(v) for v in (x.tolist() if isinstance(x, np.ndarray) else x)]
    if isinstance(x, (bool, np.bool_)):
        return bool(x)
    if isinstance(x, (float, np.floating)):
        return float(f'{x:.12g}') if math.isfinite(x) else str(float(x))
    if isinstance(x, np.integer):
        return int(x)
    assert x is None or isinstance(x, (int, str)), type(x)
    return x


def short(x, n=8):
    "The first numbers of an array, and its sum and sum of squares."
    x = torch.as_tensor(x).detach().double().flatten()
    return dict(first=x[:n], sum=x.sum().item(), squares=x.square().sum().item(), count=x.numel())


def pixels(image, n=16):
    "Mean of a picture and some of its values."
    flat = np.asarray(image).ravel()
    at = np.linspace(0, len(flat) - 1, n).round().astype(int)
    return dict(mean=float(flat.astype(float).mean()), shape=list(np.shape(image)), values=flat[at])


def sha(*parts):
    "sha256 of bytes."
    h = hashlib.sha256()
    for p in parts:
        h.update(p)
    return h.hexdigest()


def tree(root):
    "Number of files below a folder, and one hash of their names and bytes."
    root = Path(root)
    files = sorted(p for p in root.rglob('*') if p.is_file())
    named = (part for p in files for part in (p.relative_to(root).as_posix().encode(), p.read_bytes()))
    return dict(files=len(files), sha256=sha(*named))


# -- bytes of SynthPAD


def golden_synthpad():
    "Bytes of all pictures and of the table, and the table read back."
    df = samples()
    root = Path(df.attrs['root'])
    back = load_synthpad(root)
    plain = back.drop(columns=['path', 'depth', 'box'])
    return dict(
        **{d: tree(root / d) for d in DOMAINS},
        table=sha((root / 'samples.csv').read_bytes()),
        manifest=json.loads((root / 'manifest.json').read_text())['sha256'],
        columns=list(back.columns),
        rows=len(back),
        same=bool((plain.values == df.drop(columns=['path', 'depth', 'box']).values).all()),
        boxes=[list(b) for b in back['box'].head(4)],
    )


def golden_variants():
    "One pattern alone and one left out, and photographs in place of rendered people."
    kw = dict(preset='tiny', seed=1, domains=['laptop'], subjects=(1, 1, 1), workers=1, progress=False)
    alone = make_variants(folder('variants'), 'alone', patterns=['moire'], **kw)
    without = make_variants(folder('variants'), 'without', patterns=['halftone'], **kw)
    photos = folder('photos')
    for seed in (1, 12, 8):
        Image.fromarray(portrait(seed)).save(photos / f'{seed}.png')
    made = make_synthpad(folder('photographed'), faces=photos, **kw)
    tables = dict(alone=alone['moire'], without=without['halftone'], photographed=made)
    return {k: dict(tree(Path(t.attrs['root']) / 'laptop'), rows=len(t)) for k, t in tables.items()}


def golden_frames():
    "Frames and face crops."
    df = frames()
    frame = [np.asarray(Image.open(p)) for p in df['frame_path']]
    face = [np.asarray(Image.open(p)) for p in df['face_path']]
    return dict(
        frame=sha(*(im.tobytes() for im in frame)),
        face=sha(*(im.tobytes() for im in face)),
        counts=df.attrs['counts'],
        margin=df.attrs['margin'],
        first=pixels(face[0]),
    )


# -- the shipped model


def golden_scores():
    "Scores of the shipped model, by two ways of loading it."
    model, meta = load_model(small_model())
    tables = {d: score_samples(shipped(), probes(d, 'test'), progress=False) for d in DOMAINS}
    again = score_samples(model, probes(DOMAINS[0], 'test'), bs=5, progress=False)
    pics = [np.asarray(Image.open(p)) for p in probes(DOMAINS[0], 'test')['frame_path'].head(4)]
    x = torch.from_numpy(np.stack(pics)).permute(0, 3, 1, 2).float() / 255
    return dict(
        **{d: t['score'].head(12).tolist() for d, t in tables.items()},
        videos={d: t['video'].head(12).tolist() for d, t in tables.items()},
        sums={d: t['score'].sum() for d, t in tables.items()},
        again=again['score'].head(4).tolist(),
        live_score=model.live_score(x),
        thresholds={k: meta['thresholds'][k]['points'] for k in ('live', 'similarity')},
        config=model_header(small_model())['config'],
    )


def golden_dev_thresholds():
    "Operating points on the development people."
    return dev_thresholds(shipped(), frames())


def golden_embeddings():
    "Embeddings of six faces, and how alike they are."
    rows = probes(DOMAINS[0], 'test').head(6)
    e = embed(shipped(), rows)
    return dict(
        first=e[:, :8],
        sums=e.sum(1),
        no_flip=embed(shipped(), rows, flip=False)[:, :4],
        layers={k: embed(shipped(), rows.head(2), layer=k)[:, :4] for k in ('fc1', 'trunk', 'logits')},
        cosine=similarity(e, e, all_pairs=True),
        l2=similarity(e[:3], e[3:], 'l2'),
    )


def golden_verify_pairs():
    "Same or different, for pairs of live test faces."
    df = frames()
    live = df[(df['split'] != 'train') & (df['label'] == 'live')].reset_index(drop=True)
    rows = []
    for i in range(len(live)):
        for j in range(i + 1, len(live)):
            a, b = live.loc[i], live.loc[j]
            same = a['subject'] == b['subject']
            if same or (i + j) % 4 == 0:
                rows.append(
                    dict(
                        path_a=a['face_path'],
                        path_b=b['face_path'],
                        same=same,
                        fold=len(rows) % 3,
                        subject_a=a['subject'],
                        subject_b=b['subject'],
                    )
                )
    v = verify_pairs(shipped(), pd.DataFrame(rows), n=100)
    impostor, genuine = v.scores()
    return dict(
        accuracy=v.accuracy,
        error=v.error,
        interval=v.interval,
        folds=v.folds,
        rates=v.rates,
        notes=v.notes,
        impostor=impostor[:8],
        genuine=genuine[:8],
    )


def golden_gallery_probe():
    "Live and attack probes against one photo a person."
    return gallery_probe(shipped(), frames(), split=None, folds=3, n=50)


def decisions(auth, df, name):
    "What an authenticator says of the pictures of a table."
    out = []
    for row in df.itertuples():
        r = auth.verify(row.path, name).to_dict()
        out.append(dict(r, box=None if r['box'] is None else list(r['box']), video=row.video))
    return out


def golden_gallery():
    "Enrol one person; verify the same one, another one and attacks."
    df = large()
    first, other = df['subject'].unique()[:2]
    photo = df[(df['subject'] == first) & (df['role'] == 'gallery')]['path'].iloc[0]
    auth = FaceAuthenticator.load('small', device='cpu')
    lenient = FaceAuthenticator.load('small', device='cpu', live_threshold=0.01, similarity_point='EER')
    live = df[(df['role'] == 'probe') & (df['label'] == 'live')]
    attack = df[df['label'] == 'attack']
    counts = [a.enroll('Ann', photo, force=True) for a in (auth, lenient)]
    more = lenient.enroll('Bea', df[(df['subject'] == other) & (df['role'] == 'gallery')]['path'].tolist(), force=True)
    groups = dict(
        same=live[live['subject'] == first],
        other=live[live['subject'] == other],
        attack=attack[attack['subject'] == first],
    )
    grey = np.full((200, 200, 3), 128, np.uint8)
    best = lenient.identify(groups['other']['path'].iloc[0]).to_dict()
    return dict(
        enrolled=[*counts, more],
        names=lenient.gallery.names(),
        default={k: decisions(auth, g, 'Ann') for k, g in groups.items()},
        lenient={k: decisions(lenient, g, 'Ann') for k, g in groups.items()},
        live_only=auth.verify(groups['same']['path'].iloc[0], live_only=True).reason,
        several=auth.verify(groups['same']['path'].tolist(), 'Ann').to_dict(),
        no_face=auth.verify(grey, 'Ann').to_dict(),
        candidates=best['candidates'],
        reason=best['reason'],
        shift=auth.shift,
    )


def golden_both_answers():
    "Live scores and embeddings in one pass."
    rows = probes(DOMAINS[1], 'test').head(3)
    frame, face = (np.stack([np.asarray(Image.open(p)) for p in rows[c]]) for c in ('frame_path', 'face_path'))
    live, e = both_answers(shipped(), frame, face)
    return dict(live=live, embedding=e[:, :8])


# -- training


SMALL = partial(GFACNN, width=0.125, pool=1)


def learner(bs=8, model=SMALL, loss=None, precision=None, **kw):
    "A small learner."
    rows = frames(32)
    dls = gfa_dataloaders(rows[rows['role'] == 'probe'].reset_index(drop=True), bs=bs, device=torch.device('cpu'))
    return guarded(gfa_learner(dls, model, loss, **kw), precision)


def quietly(learn, fit):
    "Train without output."
    with learn.no_bar(), learn.no_logging():
        return fit()


def trained(epochs=2, bs=8, **kw):
    "Loss terms of a short training, and what came of it."
    learn = learner(bs, **kw)
    quietly(learn, lambda: learn.fit(epochs))
    terms = terms_table(learn)[['anti', 'ident', 'tpc', 'fc2_std', 'lr']]
    final = [None if v is None else float(v) for v in learn.recorder.values[-1]]
    return dict(terms=terms, final=final, head=short(learn.model.spoof_head[-1].weight))


def golden_train_default():
    return trained()


def golden_train_halves():
    return trained(loss=GFALoss(TPCLoss('halves')))


def golden_train_no_tpc():
    return trained(loss=GFALoss(tpc=False))


def golden_train_paper_scale():
    return trained(loss=GFALoss(TPCLoss(scale='paper')))


def golden_train_halving():
    return trained(epochs=1, halve_every=3, loss=GFALoss(TPCLoss(reduction='mean'), lambda_tpc=0.01, lambda_id=0.5))


def golden_train_bf16():
    "Two steps in bfloat16."
    terms = trained(epochs=1, bs=32, precision='bf16')['terms']
    return dict(steps=len(terms), terms=terms)


# -- domain adaptation


@functools.cache
def fitted(width=0.0625):
    "A tiny FDA."
    return FDA(pictures()[8], width=width, size=32, seed=1).fit(pictures()[:8], steps=6, bs=2, progress=False)


def outputs(adapter):
    "Two pictures through an adapter."
    return [pixels(im) for im in adapter.transform(pictures()[:2])]


def golden_fda():
    "A fit with a given target, and one that chooses its target."
    fda = fitted(0.125)
    own = FDA(preset='paper', width=0.0625, size=32, seed=2).fit(pictures()[:8], steps=3, bs=2, lr=1e-2, progress=False)
    return dict(
        terms=fda.terms,
        info=fda.info,
        out=outputs(fda),
        weights=short(fda.net.layers[0].weight),
        medoid=dict(terms=own.terms, info=own.info, out=outputs(own)),
    )


def golden_adapters():
    "The simple methods and the two that are fitted."
    target = pictures()[8]
    light = LightFDA(target, size=32, seed=1).fit(pictures()[:8], steps=4, bs=2, lr=1e-2, progress=False)
    twin = LightFDA(target, size=32, seed=1).imitate(fitted(), pictures()[:8], steps=3, bs=2, progress=False)
    made = dict(
        colour=ColourMatch(target),
        rgb=ColourMatch(target, 'rgb', 0.5),
        fourier=FourierSwap(target, 0.05),
        recompress=Recompress(),
        coarse=Recompress(30),
        light=light,
        twin=twin,
    )
    info = dict(light=light.info, off=twin.info['off'])
    return dict(out={k: outputs(a) for k, a in made.items()}, info=info, stats=made['colour'].stats)


def golden_divergence():
    "Feature divergence between two domains in the small trunk."
    a, b = (probes(d, 'train') for d in DOMAINS)
    return dict(
        people=feature_divergence(vgg16_trunk(0.25, 'small').eval(), *map(picture_batches, (a, b)), splits=5),
        model=feature_divergence(shipped(), *(picture_batches(t, column='frame_path') for t in (a, b)), splits=3),
    )


# -- other methods


def baseline_scores(name):
    "Scores of a baseline that is trained on one domain, on test people of the other."
    b = make_baseline(name, workers=1, progress=False).fit(probes(DOMAINS[0], 'train'))
    return b.score(probes(DOMAINS[1], 'test'))['score'].tolist()


def golden_baselines():
    "Baselines of several kinds."
    return {name: baseline_scores(name) for name in ('LBP + SVM', 'Colour LBP', 'IDA + SVM', 'Radial spectrum')}


def golden_comparators():
    "Two comparators after a few steps."
    out = {}
    for name in ('CNN + MMD', 'Auxiliary (depth)'):
        c = Comparator(name, steps=4, bs=8, width=0.0625, device='cpu', progress=False)
        c.fit(probes(DOMAINS[0], 'train', 32))
        out[name] = c.score(probes(DOMAINS[1], 'test', 32))['score'].tolist()
    return out


# -- metrics and reports


def golden_metrics():
    "Error rates of a random table."
    df = random_scores()
    attack, live = (df.loc[df['label'] == l, 'score'].to_numpy() for l in ('attack', 'live'))
    pai = df.loc[df['label'] == 'attack', 'pai'].to_numpy()
    t = eer_threshold(attack, live)
    return dict(
        eer=eer(attack, live),
        threshold=t,
        hter=hter(attack, live, 0.6),
        far_frr=far_frr(attack, live, 0.6),
        apcer=apcer(attack, 0.6, pai),
        per_pai=apcer_per_pai(attack, 0.6, pai),
        bpcer=bpcer(live, 0.6),
        acer=acer(attack, live, 0.6, pai),
        auc=auc(attack, live),
        tpr=tpr_at_fpr(attack, live, 0.05),
        apcer_threshold=apcer_threshold(attack, 0.1, pai, live),
        bpcer_at_apcer=bpcer_at_apcer(attack, live, 0.1, pai),
    )


def golden_bootstrap():
    "Intervals over subjects."
    a, b = random_scores(), random_scores(seed=1)
    live = (a['label'] == 'live').to_numpy()
    one = bootstrap_subjects(a['score'], live, a['subject'], 0.6, a['pai'], n=200, seed=4)
    two = paired_bootstrap(a['score'], b['score'], live, a['subject'], 0.6, 0.55, a['pai'], n=200, seed=4)
    return dict(one=one, two=two)


def golden_reports():
    "Reports with every origin of the threshold, and a comparison of two systems."
    df = random_scores()
    source = random_scores(seed=2, dataset='s', shift=0.3)
    reports = compare_thresholds(df, source, n=100)
    hows = 'mean', 'median', 'min', 'max', 'logodds'
    grouped = evaluate_scores(df, 0.55, how='logodds', n=100, species=dict(print='any', replay='any'))
    return dict(
        reports={k: r.to_dict() for k, r in reports.items()},
        grouped=grouped.to_dict(),
        hter=reports['source-dev'].hter,
        versus=compare_systems(df, random_scores(seed=1), 'dev', n=100),
        videos={how: video_scores(df, how)['score'].head(6).tolist() for how in hows},
    )


# -- closed forms


def golden_tpc():
    "Total Pairwise Confusion in all readings, and its relatives."
    x = normal(7, 33)
    random = {r: TPCLoss('random', r, 5, generator=torch.Generator().manual_seed(3))(x) for r in ('sum', 'mean')}
    groups = torch.tensor([0, 0, 1, 1, 2, 2, 2])
    y = x.clone().requires_grad_()
    tpc_loss(y).backward()
    return dict(
        loss={p: {r: TPCLoss(p, r)(x) for r in ('sum', 'mean', 'none')} for p in ('all', 'halves')},
        random=random,
        gradient=short(y.grad),
        scale={p: paper_scale(7, 33, p) for p in ('all', 'halves')},
        confusion=[pairwise_confusion(x), pairwise_confusion(x, True), pairwise_confusion(x, labels=groups)],
        entropic=entropic_confusion(x),
        mmd=mmd_loss(x, groups),
    )


def golden_gfa_loss():
    "Eq. 1 of random outputs, an unknown person among them."
    pred = normal(6, 2), normal(6, 4, seed=1), noise(6, 16, seed=2)
    label, subject = torch.tensor([0, 1, 0, 1, 1, 0]), torch.tensor([0, 1, UNKNOWN, 3, 2, 2])
    losses = dict(
        default=GFALoss(),
        halves=GFALoss(TPCLoss('halves')),
        paper=GFALoss(TPCLoss(scale='paper')),
        off=GFALoss(tpc=False),
        batch=GFALoss(),
        groups=GFALoss(),
    )
    losses['batch'].bs = 32
    losses['groups'].tpc_of_batch = partial(tpc_of_parts, losses['groups'], 2)
    out = {}
    for name, loss in losses.items():
        total = loss(pred, label, subject)
        rows = loss(pred, label, subject, reduction='none')
        terms = dict(anti=loss.anti, ident=loss.ident, tpc=loss.tpc, fc2_std=feature_std(pred[2]))
        out[name] = dict(total=total, rows=rows, **terms)
    return out


def golden_fda_losses():
    "Gram matrices, losses, and features of the small loss network."
    f, g = noise(2, 4, 5, 6), noise(2, 4, 5, 6, seed=1)
    target = gram_matrix(g[:1])
    phi = LossNetwork(vgg16_trunk(0.25, 'small'))
    features = phi(noise(2, 3, 32, 32), ('relu1_2', 'relu3_3'))
    return dict(
        gram=target,
        domain={n: domain_loss(f, target, n) for n in ('paper', 'mean', 'relative')},
        content=content_loss(f, g),
        tv=tv_loss(noise(2, 3, 8, 8)),
        fourier=short(fourier_swap(noise(1, 3, 16, 20), noise(1, 3, 16, 20, seed=1), 0.1)),
        grid=short(slice_grid(noise(1, 3, 20, 24), normal(1, 12, 4, 8, 8))),
        features={k: short(v) for k, v in features.items()},
    )


def golden_transform_net():
    "The transform network in its readings, on a fixed input."
    x = noise(1, 3, 20, 28)
    made = dict(linear=dict(out='linear'), tanh=dict(out='tanh', up='transposed', pad='zeros'), residual={})
    out = {}
    for name, kw in made.items():
        torch.manual_seed(4)
        net = TransformNet(0.125, **kw).eval()
        with torch.no_grad():
            out[name] = dict(fast=short(fast_form(net)(x)), slow=short(net(x)))
        out[name]['weights'] = short(net.layers[0].weight)
    return out


def golden_networks():
    "First weights of trunk and network for a seed, and a forward pass."
    torch.manual_seed(7)
    trunk = vgg16_trunk(0.125)
    torch.manual_seed(7)
    model = GFACNN(5, width=0.125, pool=2).eval()
    with torch.no_grad():
        spoof, who, fc2 = model(noise(2, 3, 64, 64), noise(2, 3, 48, 48, seed=1))
        same = model(noise(2, 3, 64, 64), noise(2, 3, 64, 64, seed=1))
        small = vgg16_trunk(0.25, 'small')(normal(1, 3, 64, 64))
    return dict(
        trunk={str(i): short(l.weight) for i, l in enumerate(trunk) if hasattr(l, 'weight')},
        small=short(small),
        spoof=spoof,
        who=who,
        fc2=short(fc2),
        same=[short(o) for o in same],
        parameters=sum(p.numel() for p in model.parameters()),
        config=model.config | {k: tuple(getattr(model, k).flatten().tolist()) for k in ("mean", "std")},
    )


def golden_training_memory():
    "Estimates of memory."
    return dict(
        full=training_memory(32),
        small=training_memory(4, 64, 0.25, pool=2),
        recompute=training_memory(4, 64, 0.25, pool=2, recompute=True),
        half=training_memory(4, 64, 0.25, number_bytes=2),
    )


# -- files that version 1 wrote


class StopAfter(Callback):
    "End a training after so many steps."

    order = 90

    def __init__(self, steps):
        self.left = steps

    def after_batch(self):
        if self.training:
            self.left -= 1
            if not self.left:
                raise CancelFitException()


def tiny_learner():
    "So small that its checkpoint is."
    model = partial(GFACNN, width=1 / 64, fc_dim=8, dropout=0.1, pool=1)
    return learner(16, model, lr=1e-3, seed=5)


def write_files():
    "Fill v1_files."
    FILES.mkdir(exist_ok=True)
    for p in FILES.iterdir():
        p.unlink()
    torch.manual_seed(8)
    model = GFACNN(3, width=1 / 32, fc_dim=8, pool=1).eval()
    meta = dict(size=32, margin=0.3, threshold=0.5, seed=8, dataset='golden', subjects=['Ann', 'Bea', 'Cem'])
    fda, colour = fitted(0.03), ColourMatch(pictures()[8])
    save_model(model, FILES / 'model.safetensors', half=True, **meta)
    save_model(model, FILES / 'model-colour.safetensors', half=True, with_adapter=colour, **meta)
    save_model(model, FILES / 'model-fda.safetensors', half=True, with_adapter=fda, **meta)
    fda.save(FILES / 'fda.safetensors')
    Recompress(40).save(FILES / 'recompress.safetensors')
    FourierSwap(pictures()[8][:16, :16], 0.1).save(FILES / 'fourier.safetensors')
    df = large()
    auth = FaceAuthenticator.load('small', gallery=FILES / 'gallery.json', device='cpu')
    for name, subject in zip(('Ann', 'Zoë'), df['subject'].unique()):
        auth.enroll(name, df[(df['subject'] == subject) & (df['role'] == 'gallery')]['path'].iloc[0], force=True)
    (FILES / 'gallery.json').chmod(0o644)
    (FILES / 'gallery.json.lock').unlink(missing_ok=True)
    save_scores(random_scores(), FILES / 'scores.csv')
    root = Path(samples().attrs['root'])
    table = samples().head(24)
    relative = [Path(p).relative_to(root).as_posix() for p in table['path']]
    save_samples(table.assign(path=relative, depth=''), FILES / 'samples.csv')
    learn = tiny_learner()
    learn.add_cb(StopAfter(5))
    quietly(learn, lambda: fit_resumable(learn, 2, FILES / 'checkpoint.pth', seed=3, every=0))


def as_version_1(meta):
    "Meta of a model with its threshold as version 1 wrote it."
    meta = dict(meta)
    live = meta.pop('thresholds')['live']
    return meta | dict(threshold=live['points'][live['point']]['threshold'])


def golden_files_models():
    "Models with and without an adapter."
    x = noise(3, 3, 32, 32)
    out = {}
    for p in sorted(FILES.glob('model*.safetensors')):
        model, meta = load_model(p)
        adapter = load_model_adapter(p)
        with torch.no_grad():
            spoof, who, fc2 = model(x, x.flip(3))
        header = {k: v for k, v in model_header(p).items() if k != 'kind'}  # (version 1 had networks only)
        header['meta'], meta = as_version_1(header['meta']), as_version_1(meta)
        out[p.name] = dict(header=header, meta=meta, spoof=spoof, who=who, fc2=fc2, live=model.live_score(x))
        if adapter is not None:
            out[p.name]['adapter'] = dict(out=outputs(adapter), fingerprint=adapter.fingerprint())
    return out


def golden_files_adapters():
    "Adapters in files of their own."
    made = {n: load_adapter(FILES / f'{n}.safetensors') for n in ('fda', 'recompress', 'fourier')}

    def facts(a):
        return dict(kind=type(a).__name__, config=a.config(), fingerprint=a.fingerprint(), out=outputs(a))

    return {n: facts(a) for n, a in made.items()}


def golden_files_gallery():
    "A gallery of the shipped model."
    path = folder('gallery') / 'gallery.json'
    shutil.copy(FILES / 'gallery.json', path)
    auth = FaceAuthenticator.load('small', gallery=path, device='cpu', live_threshold=0.01)
    live = large().query("role == 'probe' and label == 'live'")
    return dict(
        names=auth.gallery.names(),
        first={n: e[:, :6] for n, e in auth.gallery.people.items()},
        decisions=decisions(auth, live, 'Ann'),
    )


def golden_files_tables():
    "Tables of scores and samples; written again, they are the same bytes."
    scores, table = load_scores(FILES / 'scores.csv'), load_samples(FILES / 'samples.csv')
    again = folder('again')
    save_scores(scores, again / 'scores.csv')
    save_samples(table, again / 'samples.csv')
    shown = ['dataset', 'split', 'subject', 'label', 'pai', 'video', 'frame', 'path', 'box', 'role']
    return dict(
        same={n: (again / n).read_bytes() == (FILES / n).read_bytes() for n in ('scores.csv', 'samples.csv')},
        sha256={n: sha((FILES / n).read_bytes()) for n in ('scores.csv', 'samples.csv')},
        exact=scores['score'].tolist() == random_scores()['score'].tolist(),
        scores=scores.head(5),
        columns=list(table.columns),
        samples=table[shown].head(5),
    )


def golden_files_checkpoint():
    "A training that was stopped in the middle of its first epoch goes on to its end."
    path = folder('checkpoint') / 'checkpoint.pth'
    shutil.copy(FILES / 'checkpoint.pth', path)
    learn = tiny_learner()
    epochs = quietly(learn, lambda: fit_resumable(learn, 2, path, seed=3, every=1000))
    terms = terms_table(learn)[['anti', 'ident', 'tpc', 'fc2_std', 'lr']]
    return dict(epochs=epochs, terms=terms, head=short(learn.model.spoof_head[-1].weight))


# -- record and compare


def machine():
    "What float32 sums depend on."
    return dict(torch=torch.__version__.split('+')[0], processor=torch.backends.cpu.get_cpu_capability())


PARTS = [name.removeprefix('golden_') for name in list(globals()) if name.startswith('golden_')]


def compute(part):
    "The numbers of a part, as they come out of JSON."
    torch.set_num_threads(1)
    return json.loads(json.dumps(numbers(globals()[f'golden_{part}']())))


def differences(want, got, tolerance, where=''):
    "Where two results differ, in words."
    if isinstance(want, dict) and isinstance(got, dict):
        lost = [f'{where}: {k} on one side only' for k in sorted(set(want) ^ set(got))]
        return lost + [d for k in want if k in got for d in differences(want[k], got[k], tolerance, f'{where}.{k}')]
    if isinstance(want, list) and isinstance(got, list):
        if len(want) != len(got):
            return [f'{where}: {len(want)} entries, now {len(got)}']
        return [d for i, (a, b) in enumerate(zip(want, got)) for d in differences(a, b, tolerance, f'{where}[{i}]')]
    if type(want) in (int, float) and type(got) in (int, float):
        fine = abs(want - got) <= tolerance * (1 + abs(want))
    else:
        fine = want == got and type(want) is type(got)
    return [] if fine else [f'{where}: {want!r}, now {got!r}']


def record():
    "Write v1_files and golden.json."
    default_device(False)
    torch.set_num_threads(1)
    write_files()
    lines = [f'"machine": {json.dumps(machine())}']
    lines += [f'{json.dumps(part)}: {json.dumps(compute(part), ensure_ascii=False)}' for part in PARTS]
    GOLDEN.write_text('{\n' + ',\n'.join(lines) + '\n}\n', encoding='utf-8')


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    "One thread and no GPU; both are given back, and the shared data goes."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    default_device(False)
    yield
    torch.set_num_threads(threads)
    default_device(None)
    scratch().cleanup()
    for f in (scratch, samples, frames, large, shipped, pictures, fitted, random_scores):
        f.cache_clear()


@functools.cache
def golden():
    "What was recorded."
    return json.loads(GOLDEN.read_text(encoding='utf-8'))


@pytest.mark.parametrize('part', PARTS)
def test_part(part):
    tolerance = TOLERANCE.get(part, CLOSE) if golden()['machine'] == machine() else ELSEWHERE
    found = differences(golden()[part], compute(part), tolerance)
    assert not found, f'{len(found)} numbers differ: ' + '; '.join(found[:8])


def test_nothing_is_left_out():
    assert sorted(golden()) == sorted([*PARTS, 'machine'])


if __name__ == '__main__':
    assert sys.argv[1:] == ['--record'], 'usage: python test_golden.py --record'
    record()
    scratch().cleanup()
