"SynthPAD: faces, attacks, benchmark."
import numpy as np, pytest
from gfa_fastai.synth.faces import (EVEN, NEUTRAL, ROOMS, STYLES, draw_clothes, draw_expression, draw_light, draw_room, face_height, identity, render_scene,
                                    rotation, skin_colour, surface_normals)
from gfa_fastai.frames import detect_face

def picture(seed, size=96, turn=.08, **fixed):
    rng = np.random.default_rng([seed, 1])
    return render_scene(identity(seed, **fixed), draw_expression(rng), rotation(*rng.normal(0, turn, 3)*(1, .5, .4)), (size*.5, size*.45), .235*size, draw_light(rng), draw_room(rng, (size, size)), draw_clothes(rng))

# --- faces

def test_the_same_seed_is_the_same_picture():
    a, b, c = picture(3), picture(3), picture(4)
    assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) and a[2] == b[2]
    assert np.abs(a[0]-c[0]).mean() > .02

@pytest.mark.parametrize('style', STYLES)
def test_every_style_renders(style):
    for s in range(3):
        im, depth, (x, y, w, h) = picture(s, 64, style=style, beard=['none', 'full', 'goatee'][s], glasses=['round', 'square', 'thin'][s])
        assert im.shape == (64, 64, 3) and im.dtype == np.float32 and np.isfinite(im).all() and im.min() >= 0
        assert 0 <= depth.min() and depth.max() <= 1 and depth[int(y+h/2), int(x+w/2)] > .3

def test_extremes_render():
    p = identity(0, age=1., melanin=2.4, freckles=1., recede=1.)
    for e in (dict(NEUTRAL, blink=1.), dict(NEUTRAL, smile=1., open=1., brow=-1.)):
        im = render_scene(p, e, rotation(.4, .2, .3), (30, 20), 30, EVEN, draw_room(np.random.default_rng(0), (60, 80)), draw_clothes(np.random.default_rng(0)))[0]
        assert im.shape == (60, 80, 3) and np.isfinite(im).all()
    with pytest.raises(ValueError, match='beart'): identity(0, beart='full')

def test_the_cascade_finds_them():
    found = [detect_face((np.clip(im*(.2/im[40:70, 30:66].mean())**.7, 0, 1)**(1/2.2)*255).astype(np.uint8)) is not None for im in (picture(s, 128)[0] for s in range(5000, 5040))]
    assert np.mean(found) >= .8

def test_a_turned_head_shows_parallax():
    "The nose moves against the outline; how far is depth times the sine of the angle."
    p = identity(1, style='bald', glasses='none'); h, w = face_height(p, NEUTRAL, 40)
    tops = [picture_of_depth(p, yaw) for yaw in (-.2, .2)]
    assert .2 < (tops[1]-tops[0])/60 < 2*np.sin(.2)*1.6

def picture_of_depth(p, yaw):
    room = np.zeros((200, 200, 3), np.float32)
    depth = render_scene(p, NEUTRAL, rotation(yaw, 0, 0), (100, 80), 60, EVEN, room, draw_clothes(np.random.default_rng(0)))[1]
    return depth[80+int(.45*60):80+int(.6*60)].mean(0).argmax()

def test_normals_of_a_plane():
    x = np.arange(20, dtype=np.float32)[None]/10; n = surface_normals(np.broadcast_to(2*x, (20, 20)).copy(), 10)
    assert np.allclose([o[10, 10] for o in n], np.array([-2, 0, 1])/5**.5, atol=1e-5)

def test_skin_darkens_with_melanin_and_reddens_with_blood():
    light, dark, red = skin_colour(.1, .2), skin_colour(2., .2), skin_colour(.1, .5)
    assert (dark < light).all() and red[0]/red[1] > light[0]/light[1]

def test_rooms_differ():
    ims = [draw_room(np.random.default_rng(s), (48, 64), k) for k in ROOMS for s in (0, 1)]
    assert min(np.abs(a-b).mean() for i,a in enumerate(ims) for b in ims[:i]) > .01
