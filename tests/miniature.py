"""Miniature trees of the real datasets: official names and counts, tiny videos for the first files, empty ones after.

What belongs to which protocol is written out here once more, not taken from the library: tests compare the two."""

from itertools import product
from pathlib import Path

import cv2
import numpy as np

FACE = (20, 10, 24, 24)  # x, y, width, height of the face in a tiny video of 64x48 pixels
EYES = (27.2, 18.88, 36.8, 18.88)  # whose square is FACE: 9.6 apart
MSU = dict(
    train=[2, 3, 5, 6, 7, 8, 9, 11, 12, 21, 22, 34, 53, 54, 55],
    test=[1, 13, 14, 23, 24, 26, 28, 29, 30, 32, 33, 35, 36, 37, 39, 42, 48, 49, 50, 51],
)
REPLAY = dict(
    train=[1, 2, 4, 6, 7, 8, 9, 12, 16, 18, 101, 103, 105, 108, 110],
    devel=[3, 5, 10, 11, 13, 14, 15, 19, 20, 21, 22, 25, 27, 29, 106],
    test=[23, 24, 26, 28, 30, 31, 33, 34, 35, 36, 37, 38, 39, 102, 104, 107, 109, 111, 113, 115],
)
SIW_TEST = [
    1,
    2,
    4,
    5,
    8,
    9,
    10,
    12,
    13,
    15,
    18,
    19,
    20,
    21,
    23,
    24,
    25,
    26,
    27,
    29,
    31,
    36,
    37,
    39,
    43,
    44,
    48,
    49,
    50,
    52,
    53,
    57,
    59,
    61,
    64,
    65,
    66,
    67,
    71,
    73,
    75,
    79,
    82,
    83,
    84,
    85,
    87,
    88,
    90,
    94,
    95,
    97,
    102,
    106,
    108,
    109,
    110,
    114,
    116,
    118,
    122,
    124,
    125,
    126,
    130,
    132,
    137,
    138,
    139,
    141,
    142,
    153,
    154,
    158,
    161,
]


def tiny_video(path, frames=6, upside_down=False):
    "A video of 64x48 pixels: a grey wall, a face at FACE, a white corner top left, a shade that changes."
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter_fourcc(*('MJPG' if path.suffix.lower() == '.avi' else 'mp4v')), 10, (64, 48)
    )
    assert writer.isOpened(), f'OpenCV cannot write {path.suffix}'
    x, y, w, h = FACE
    for i in range(frames):
        im = np.full((48, 64, 3), 60 + 20 * i, np.uint8)
        cv2.ellipse(im, (x + w // 2, y + h // 2), (w // 2 - 2, h // 2), 0, 0, 360, (120, 160, 220), -1)
        for ex in EYES[::2]:
            cv2.circle(im, (round(ex), round(EYES[1])), 2, (20, 20, 20), -1)
        im[:6, :6] = 255
        writer.write(np.ascontiguousarray(im[::-1, ::-1]) if upside_down else im)
    writer.release()


class Tree:
    "Writes files below a root: the first `videos` videos are real, the others empty."

    def __init__(self, root, videos):
        self.root, self.left, self.made = Path(root), videos, set()

    def folder(self, path):
        if path.parent not in self.made:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.made.add(path.parent)
        return path

    def video(self, name, upside_down=False):
        "Write it; returns whether it is a real one."
        path = self.folder(self.root / name)
        self.left -= 1
        if self.left < 0:
            path.touch()
        else:
            tiny_video(path, upside_down=upside_down)
        return self.left >= 0

    def text(self, name, lines, end='\n'):
        self.folder(self.root / name).write_bytes(end.join(lines).encode())


def make_casia(root, people=(20, 30), videos=2):
    "CASIA-FASD: 240 and 360 videos."
    t = Tree(root, videos)
    for part, n in zip(('train_release', 'test_release'), people):
        for k, clip in product(
            range(1, n + 1), ['1', '2', '3', '4', '5', '6', '7', '8', 'HR_1', 'HR_2', 'HR_3', 'HR_4']
        ):
            t.video(f'{part}/{k}/{clip}.avi')
    t.text('train_release/Thumbs.db', ['junk'])
    return t.root


def make_replay(root, people=REPLAY, videos=2):
    "Replay-Attack: 360, 360 and 480 videos, enrolments, boxes for the real videos, and all lists but smalltest's."
    t = Tree(root, videos)
    for group, clients in people.items():
        lists = {p: [] for p in ('real', 'grandtest', 'print', 'mobile', 'highdef', 'photo', 'video', 'digitalphoto')}
        for n, light in product(clients, ('controlled', 'adverse')):
            names = [(f'real/client{n:03d}_session01_webcam_authenticate_{light}_{take}', ['real']) for take in (1, 2)]
            for support in ('fixed', 'hand'):
                for shown, original, medium, protocols in (
                    ('print', 'highdef', 'photo', ['print', 'photo']),
                    ('mobile', 'mobile', 'photo', ['mobile', 'photo', 'digitalphoto']),
                    ('mobile', 'mobile', 'video', ['mobile', 'video']),
                    ('highdef', 'highdef', 'photo', ['highdef', 'photo', 'digitalphoto']),
                    ('highdef', 'highdef', 'video', ['highdef', 'video']),
                ):
                    names.append(
                        (
                            f'attack/{support}/attack_{shown}_client{n:03d}_session01_{original}_{medium}_{light}',
                            ['grandtest', *protocols],
                        )
                    )
            for name, protocols in names:
                for p in protocols:
                    lists[p].append(f'{group}/{name}.mov')
                if t.video(f'{group}/{name}.mov'):
                    t.text(
                        f'face-locations/{group}/{name}.face',
                        [f'{i} {" ".join(map(str, FACE))}' for i in range(5)] + ['5 0 0 0 0'],
                    )
            (t.folder(root / f'enroll/{group}/client{n:03d}_session01_webcam_enroll_{light}_1.mov')).touch()
        for p, names in lists.items():
            t.text(
                f'protocols/real-{group}.txt' if p == 'real' else f'protocols/attack-{p}-allsupports-{group}.txt', names
            )
    return t.root


def make_msu(root, people=MSU, videos=2, scene='scene01/'):
    "MSU-MFSD: 120 and 160 videos; lists with two digits, CRLF, and no line end at the end."
    t = Tree(root, videos)
    for split, clients in people.items():
        t.text(f'{split}_sub_list.txt', [f'{n:02d}' for n in clients], '\r\n')
        for n, (device, ending), attack in product(
            clients, (('android', 'mp4'), ('laptop', 'mov')), ('', 'ipad_video_', 'iphone_video_', 'printed_photo_')
        ):
            kind = 'attack' if attack else 'real'
            stem = f'{scene}{kind}/{kind}_client{n:03d}_{device}_SD_{attack}scene01'
            x, y, w, h = FACE
            if t.video(f'{stem}.{ending}', upside_down=not attack and device == 'android' and n in (3, 5, 6, 7, 8, 9)):
                t.text(f'{stem}.face', [f'{i},{x},{y},{x + w},{y + h},' + ','.join(map(str, EYES)) for i in range(6)])
    return t.root


def oulu_protocols():
    "(protocol, fold or None, list name) -> names of its videos, written out by sets."
    users, out = dict(Train=range(1, 21), Dev=range(21, 36), Test=range(36, 56)), {}

    def add(protocol, fold, phones, sessions, files):
        for k, part in enumerate(users):
            test = part == 'Test'
            out[protocol, fold, part] = [
                f'{p}_{s}_{u:02d}_{f}' for p, s, u, f in product(phones[test], sessions[test], users[part], files[test])
            ]

    every, all_sessions, all_files = [range(1, 7)] * 2, [(1, 2, 3)] * 2, [(1, 2, 3, 4, 5)] * 2
    add(1, None, every, [(1, 2), (3,)], all_files)
    add(2, None, every, all_sessions, [(1, 2, 4), (1, 3, 5)])
    for k in range(1, 7):
        phones = [[p for p in range(1, 7) if p != k], [k]]
        add(3, k, phones, all_sessions, all_files)
        add(4, k, phones, [(1, 2), (3,)], [(1, 2, 4), (1, 3, 5)])
    return out


def make_oulu(root, videos=2, lists=True, users=(range(1, 21), range(21, 36), range(36, 56))):
    "OULU-NPU: 1800, 1350 and 1800 videos, and the lists of all protocols."
    t = Tree(root, videos)
    for part, people in zip(('Train', 'Dev', 'Test'), users):
        for p, s, u, f in product(range(1, 7), (1, 2, 3), people, range(1, 6)):
            stem = f'{part}_files/{p}_{s}_{u:02d}_{f}'
            if t.video(f'{stem}.avi'):
                t.text(f'{stem}.txt', [f'{i},' + ','.join(map(str, EYES)) for i in range(6)])

    def line(name, test):
        return ('+1', '-1', '-1', *(('-2', '-2') if test else ('-1', '-1')))[int(name[-1]) - 1] + ',' + name

    for (protocol, fold, part), names in oulu_protocols().items() if lists else ():
        t.text(
            f'Protocols/Protocol_{protocol}/{part}{f"_{fold}" if fold else ""}.txt',
            [line(n, part == 'Test') for n in names],
        )
    return t.root


def make_siw(root, videos=2, people=None):
    "SiW: 90 and 75 people, 2,417 and 2,061 videos; those with the highest numbers lack some."
    t = Tree(root, videos)
    people = people or dict(Train=[n for n in range(1, 166) if n not in SIW_TEST], Test=SIW_TEST)
    counts = dict(
        Train=dict(live=714, print=339, replay=(360, 360, 359, 285)),
        Test=dict(live=599, print=314, replay=(300, 300, 298, 250)),
    )
    for split, who in people.items():

        def videos_of(kind, media, sessions=(1, 2), sensors=(1, 2)):
            return [f'{n:03d}/{n:03d}-{c}-{kind}-{m}-{s}' for c, m, s, n in product(sensors, media, sessions, who)]

        c = counts[split]
        names = videos_of(1, (1, 2))[: c['live']]
        attacks = (videos_of(2, (1, 2), sensors=(1,)) + videos_of(2, (2,), (1,), (2,)))[: c['print']]
        for medium, n in enumerate(c['replay'], 1):
            attacks += videos_of(3, (medium,))[:n]
        for part, stems in (('live', names), ('spoof', attacks)):
            for stem in sorted(stems):
                if t.video(f'{split}/{part}/{stem}.mov'):
                    t.text(
                        f'{split}/{part}/{stem}.face',
                        [f'{FACE[0]} {FACE[1]} {FACE[0] + FACE[2]} {FACE[1] + FACE[3]}'] * 6,
                    )
    return t.root


def make_lfw(root, folds=10, size=300, header=True, images=True):
    "LFW: ten folds of 300 and 300 pairs. The images are empty."
    t = Tree(root, 0)
    lines, pairs = [f'{folds}\t{size}'] if header else [], []
    for k in range(folds):
        same = [((f'P_{k}_{i}', 1), (f'P_{k}_{i}', 2 + i % 3)) for i in range(size)]
        other = [((f'P_{k}_{i}', 1), (f'P_{k}_{(i + 1) % size}', 2)) for i in range(size)]
        pairs += same + other
        lines += [f'{a}\t{i}\t{j}' for (a, i), (_, j) in same] + [f'{a}\t{i}\t{b}\t{j}' for (a, i), (b, j) in other]
    t.text('pairs.txt', lines)
    for name, i in {o for p in pairs for o in p} if images else ():
        t.folder(t.root / f'lfw/{name}/{name}_{i:04d}.jpg').touch()
    return t.root


def make_folder(root, people=6, videos=3):
    "A user's folder: live and two kinds of attack for each person, videos and an image."
    t = Tree(root, videos)
    for k in range(people):
        t.video(f'live/p{k}/film.avi')
        t.video(f'attack/print/p{k}/film.mov')
        t.video(f'attack/replay/p{k}/film.mp4')
        t.text(f'live/p{k}/photo.jpg', [])
    return t.root
