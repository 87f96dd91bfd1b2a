import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from attn.core.segment.prepare import IMAGENET_MEAN, IMAGENET_STD, Preparation
from attn.core.train.fsgnet import augment
from attn.core.train.fsgnet.augment import (
    CAMERAS,
    PAPER,
    ROBUST,
    Augmentation,
    Draw,
    degrade,
    gaussian_blur,
    homography,
    hue_rotation,
    magnification,
    recolour,
    sample,
    through_jpeg,
)
from attn.core.train.fsgnet.example import Example
from attn.core.train.fsgnet.recipe import CropBatches

FIXED = Preparation(normalise="imagenet")  # can be undone: pixels are input * std + mean
OFF = Augmentation(
    **{field.name: 0.0 for field in fields(Augmentation) if field.name.endswith("_prob")}, flip_vertical=False
)
SIDE = 48


def example(layers, name="a"):
    return Example(name, layers, layers[:3].reshape(3, -1)[:, :400].clone())


def noise(seed=0, side=SIDE):
    """A photo of coloured noise, all of it field of view."""
    layers = torch.rand(5, side, side, generator=torch.Generator().manual_seed(seed))
    layers[3], layers[4] = (layers[3] > 0.5).float(), 1
    return example(layers)


def pattern(side=64):
    """A photo whose three channels are its label: an asymmetric drawing in a round field of view."""
    yy, xx = np.mgrid[:side, :side]
    mask = np.hypot(yy - side / 2, xx - side / 2) < side * 0.47
    drawn = np.zeros((side, side), bool)
    drawn[10:40, 20:25] = drawn[35:40, 20:45] = drawn[50:56, 30:34] = True
    drawn = torch.from_numpy((drawn & mask).astype(np.float32))
    return example(torch.stack([drawn, drawn, drawn, drawn, torch.from_numpy(mask.astype(np.float32))]))


def dark_vessels():
    """``pattern`` as dark lines on an even ground."""
    layers = pattern(SIDE).layers.clone()
    layers[:3] = (0.6 - 0.3 * layers[:3]) * layers[4]
    return example(layers)


def batches(augmentation=OFF, examples=None, crop=SIDE, batch=2, seed=3, preparation=FIXED):
    return CropBatches(examples or [noise(0), noise(1)], preparation, augmentation, crop, batch, seed)


def pixels(x):
    """Undo the fixed normalisation: [B, 3, h, w] in [0, 1]."""
    return x * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]


def draw(seed=0):
    return Draw(np.random.default_rng(seed))


GEOMETRIES = {
    "off": {},
    "resize": {"resize_prob": 1.0},
    "rotate": {"rotate_prob": 1.0, "flip_vertical": True},
    "perspective": {"perspective_prob": 1.0},
    "all": {"resize_prob": 1.0, "rotate_prob": 1.0, "perspective_prob": 1.0, "flip_vertical": True},
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_label_and_photo_move_together(geometry):
    make = batches(replace(OFF, **GEOMETRIES[geometry]), [pattern()], batch=4)
    seen = 0
    for step in range(4):
        x, label = make(step)
        value = pixels(x)
        sure = (value[:, :1] - 0.5).abs() > 1e-4  # at half a pixel rounding decides
        assert torch.equal((value[:, :1] > 0.5)[sure], (label > 0.5)[sure])
        assert set(label.unique().tolist()) <= {0.0, 1.0}
        seen += int(label.sum())
    assert seen > 500


def test_nothing_but_the_crop_where_all_is_off():
    photo = noise()
    x, label = batches(OFF, [photo], crop=2 * SIDE, batch=8)(0)  # a crop so large has one place only
    inner = slice(SIDE // 2, SIDE // 2 + SIDE)
    mirrored = 0
    for value, truth in zip(pixels(x)[:, :, inner, inner], label[:, 0, inner, inner], strict=True):
        flip = not torch.allclose(value, photo.pixels, atol=1e-4)
        mirrored += flip
        torch.testing.assert_close(value.flip(-1) if flip else value, photo.pixels, rtol=0, atol=1e-4)
        assert torch.equal(truth.flip(-1) if flip else truth, photo.layers[3])
    assert 0 < mirrored < 8
    outside = label.clone()
    outside[:, :, inner, inner] = 0
    assert not outside.any()


def test_crops_keep_the_scale_where_all_is_off():
    for seed in range(20):
        view = homography(draw(seed), OFF, SIDE, (100, 80))
        step = (view @ torch.tensor([1.0, 0, 1]).double() - view @ torch.tensor([0.0, 0, 1]).double())[0] * 80 / 2
        assert abs(float(step)) == pytest.approx(SIDE / 2)
        assert abs(float(view[1, 1])) * 100 / 2 == pytest.approx(SIDE / 2)
        assert float(view[1, 1]) > 0  # never upside down
        y, x = float(view[1, 2]) * 50, float(view[0, 2]) * 40
        assert math.hypot(y, x) <= 40 - SIDE / 4 + 1e-6


def test_resize_enlarges_by_its_factor():
    twice = replace(OFF, resize_prob=1.0, resize=(2.0, 2.0), aspect=(1.0, 1.0))
    view = homography(draw(), twice, SIDE, (100, 100))
    assert abs(float(view[0, 0])) * 50 == pytest.approx(SIDE / 4)  # half as much of the photo in the same crop
    tall = homography(draw(), replace(twice, aspect=(4.0, 4.0)), SIDE, (100, 100))
    assert abs(float(tall[0, 0] / tall[1, 1])) == pytest.approx(4.0)  # aspect: height over width


def test_rotation_and_flips_reach_every_orientation():
    every = replace(OFF, rotate_prob=1.0, flip_vertical=True)
    views = [homography(draw(seed), every, SIDE, (90, 90)) for seed in range(64)]
    angles = [math.atan2(float(v[1, 0]), float(v[0, 0])) for v in views]
    assert set(np.digitize(angles, np.linspace(-math.pi, math.pi, 5))) == {1, 2, 3, 4}
    turned = [float(torch.linalg.det(v[:2, :2])) > 0 for v in views]
    assert 16 < sum(turned) < 48
    upright = [homography(draw(seed), replace(OFF, flip_vertical=True), SIDE, (90, 90)) for seed in range(64)]
    assert {(v[0, 0].sign().item(), v[1, 1].sign().item()) for v in upright} == {
        (a, b) for a in (-1, 1) for b in (-1, 1)
    }


def test_perspective_keeps_the_crop_in_front_of_the_camera():
    strong = replace(OFF, perspective_prob=1.0)
    corners = torch.tensor([[x, y, 1.0] for x in (-1, 1) for y in (-1, 1)], dtype=torch.float64)
    depth = torch.stack([corners @ homography(draw(seed), strong, SIDE, (90, 90)).T for seed in range(50)])[..., 2]
    assert float(depth.min()) >= 0.5 - 1e-9
    assert float(depth.std()) > 0.1


def test_sample_is_zero_outside_and_exact_on_whole_pixels():
    layers = torch.rand(2, 20, 30)
    view = torch.diag(torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64))  # 20 rows into the middle 10 of 20
    out = sample(layers, view, 20)
    assert out.shape == (2, 20, 20)
    assert not out[:, :5].any()
    assert not out[:, 15:].any()
    whole = sample(layers[:, :, :20], torch.eye(3, dtype=torch.float64), 20)
    torch.testing.assert_close(whole, layers[:, :, :20], rtol=0, atol=1e-5)


CHANGES = {  # field -> what must be on for it to act, the changed value
    "resize": ({"resize_prob": 1.0}, (3.0, 3.0)),
    "resize_prob": ({}, 1.0),
    "aspect": ({"resize_prob": 1.0}, (2.0, 2.0)),
    "rotate_prob": ({}, 1.0),
    "perspective": ({"perspective_prob": 1.0}, 0.1),
    "perspective_prob": ({}, 1.0),
    "flip_vertical": ({}, True),
    "jitter": ({"jitter_prob": 1.0}, 0.4),
    "hue": ({"jitter_prob": 1.0}, 0.3),
    "jitter_prob": ({}, 1.0),
    "blur": ({"blur_prob": 1.0}, (3.0, 3.0)),
    "blur_prob": ({}, 1.0),
    "gamma": ({"gamma_prob": 1.0}, 0.9),
    "gamma_prob": ({"gamma": 0.5}, 1.0),
    "illumination": ({"illumination_prob": 1.0}, 0.3),
    "illumination_prob": ({"illumination": 0.3}, 1.0),
    "grey_prob": ({}, 1.0),
    "lose_prob": ({}, 1.0),
    "noise": ({"noise_prob": 1.0}, 0.2),
    "noise_prob": ({"noise": 0.2}, 1.0),
    "jpeg": ({"jpeg_prob": 1.0}, (5, 5)),
    "jpeg_prob": ({}, 1.0),
    "cut_mix_prob": ({}, 1.0),
    "coarse": ({"coarse_prob": 1.0, "noise": 0.2, "noise_prob": 1.0}, (0.2, 0.3)),
    "coarse_prob": ({"noise": 0.2, "noise_prob": 1.0}, 1.0),
    "fade_prob": ({}, 1.0),
    "reflex": ({"reflex_prob": 1.0, "reflex": 0.1}, 0.9),
    "reflex_prob": ({"reflex": 0.5}, 1.0),
    "spots_prob": ({}, 1.0),
    "narrow_prob": ({}, 1.0),
    "own_prob": ({}, 1.0),
    "soft": ({}, True),
}


def test_every_field_is_covered():
    assert CHANGES.keys() == {field.name for field in fields(Augmentation)}


@pytest.mark.parametrize("name", CHANGES)
def test_every_field_changes_the_batch(name):
    needs, value = CHANGES[name]
    base = replace(OFF, **needs)
    assert getattr(base, name) != value
    preparation = Preparation() if name == "own_prob" else FIXED
    photos = [noise(0), dark_vessels()]
    one, other = (
        torch.cat(batches(a, photos, batch=4, preparation=preparation)(0), 1)
        for a in (base, replace(base, **{name: value}))
    )
    assert torch.isfinite(other).all()
    assert float((one - other).abs().max()) > 0.05


@pytest.mark.parametrize("augmentation", [OFF, PAPER, ROBUST, CAMERAS], ids=["off", "paper", "robust", "cameras"])
@pytest.mark.parametrize("mode", ["fov", "imagenet"])
def test_shapes_ranges_and_layout(augmentation, mode):
    x, label = batches(augmentation, [pattern(), noise()], preparation=Preparation(normalise=mode))(1)
    assert x.shape == (2, 3, SIDE, SIDE)
    assert label.shape == (2, 1, SIDE, SIDE)
    assert x.dtype == label.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert torch.isfinite(x).all()
    if mode == "imagenet":
        assert -1e-5 <= float(pixels(x).min()) <= float(pixels(x).max()) <= 1 + 1e-5


@pytest.mark.parametrize("augmentation", [PAPER, ROBUST, CAMERAS], ids=["paper", "robust", "cameras"])
def test_a_step_is_the_same_whatever_came_before(augmentation):
    first, second = batches(augmentation), batches(augmentation)
    for step in range(4):
        first(step)
    assert all(map(torch.equal, first(4), second(4)))
    assert all(map(torch.equal, first(4), first(4)))
    assert not torch.equal(first(4)[0], first(5)[0])
    assert not torch.equal(first(4)[0], batches(augmentation, seed=4)(4)[0])


@pytest.mark.parametrize("name", ["grey_prob", "lose_prob", "gamma_prob", "jitter_prob"])
def test_photos_are_not_changed_in_place(name):
    photos = [noise(0), noise(1)]
    before = [(photo.layers.clone(), photo.samples.clone()) for photo in photos]
    batches(replace(OFF, gamma=0.5, **{name: 1.0}), photos, batch=4)(0)
    for photo, (layers, samples) in zip(photos, before, strict=True):
        assert torch.equal(photo.layers, layers)
        assert torch.equal(photo.samples, samples)


def test_every_photo_once_per_epoch_in_changing_order(monkeypatch):
    seen = []

    def record(self, draw, index):
        seen.append(index)
        return torch.zeros(4, 8, 8)

    monkeypatch.setattr(CropBatches, "_view", record)
    make = batches(OFF, [noise()] * 5, batch=3)
    for step in range(20):
        make(step)
    epochs = [tuple(seen[i : i + 5]) for i in range(0, 60, 5)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len(set(epochs)) > 6


def flat(value):
    layers = torch.full((5, SIDE, SIDE), float(value))
    layers[4] = 1
    return example(layers)


def test_cut_mix_pastes_one_box_of_photo_and_label():
    make = batches()
    black, white = torch.zeros(4, SIDE, SIDE), torch.ones(4, SIDE, SIDE)
    boxes = []
    for seed in range(30):
        out = make._paste(draw(seed), black, white)
        assert torch.equal(out[0], out[3])  # the label with the photo
        rows, columns = out[3].any(1).nonzero()[:, 0], out[3].any(0).nonzero()[:, 0]
        top, left, height, width = int(rows[0]), int(columns[0]), len(rows), len(columns)
        assert int(out[3].sum()) == height * width  # one box
        assert max(top, left) < 0.75 * SIDE
        assert max(height, width) <= 0.75 * SIDE
        assert height >= min(0.25 * SIDE, SIDE - top) - 1
        assert width >= min(0.25 * SIDE, SIDE - left) - 1
        boxes.append((top, left, height, width))
    assert len(set(boxes)) > 20
    assert not black.any()  # what it was pasted onto is not changed


def test_cut_mix_shows_another_photo_in_the_batch():
    make = batches(replace(OFF, cut_mix_prob=1.0), [flat(0), flat(1)], batch=2)
    mixed = [0 < float(truth.mean()) < 0.99 for step in range(6) for truth in make(step)[1]]
    assert 2 < sum(mixed) < 12
    x, label = make(0)
    lit = pixels(x)[:, :1] > 0.5
    assert torch.equal(lit, label > 0.5)
    alone = batches(replace(OFF, cut_mix_prob=1.0), [flat(1)])
    assert torch.equal(alone(0)[0], batches(OFF, [flat(1)])(0)[0])  # one photo has no other


@pytest.mark.parametrize("turns", [-0.3, -0.05, 0.0, 0.1, 0.5])
def test_hue_rotation_keeps_grey_and_lengths(turns):
    matrix = hue_rotation(turns)
    torch.testing.assert_close(matrix @ torch.ones(3), torch.ones(3))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(matrix @ hue_rotation(-turns), torch.eye(3), rtol=0, atol=1e-6)


def test_a_third_of_the_circle_turns_red_into_green():
    torch.testing.assert_close(hue_rotation(1 / 3), torch.eye(3).roll(1, 0), rtol=0, atol=1e-6)


def test_jitter_changes_photo_and_samples_alike():
    image = torch.rand(3, 16, 16)
    out, samples = recolour(
        draw(1), replace(OFF, jitter_prob=1.0, gamma=0.5, gamma_prob=1.0), [image, image.reshape(3, -1)]
    )
    torch.testing.assert_close(out.reshape(3, -1), samples)
    assert float((out - image).abs().max()) > 0.02
    assert 0 <= float(out.min()) <= float(out.max()) <= 1


def test_grey_takes_the_green_channel_and_lose_makes_one_constant():
    image = torch.rand(3, 9, 9)
    grey, _ = recolour(
        draw(), replace(OFF, grey_prob=1.0, lose_prob=1.0), [image.clone(), image.reshape(3, -1).clone()]
    )
    assert all(torch.equal(channel, image[1]) for channel in grey)
    lost = set()
    for seed in range(12):
        out, samples = recolour(draw(seed), replace(OFF, lose_prob=1.0), [image.clone(), image.reshape(3, -1).clone()])
        assert torch.equal(out.reshape(3, -1), samples)
        constant = [i for i in range(3) if float(out[i].std()) == 0]
        assert len(constant) == 1
        lost.add((constant[0], float(out[constant[0], 0, 0])))
    assert lost == {(0, 1.0), (2, 0.0)}  # red saturated or blue dark, green never


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_has_its_width_and_keeps_the_mean(sigma):
    point = torch.zeros(3, 41, 41)
    point[:, 20, 20] = 1
    out = gaussian_blur(point, sigma)
    assert out.shape == point.shape
    assert float(out[0].sum()) == pytest.approx(1, abs=1e-5)
    place = torch.arange(41.0) - 20
    for axis in (0, 1):
        assert float((out[1].sum(axis) * place**2).sum()) == pytest.approx(
            sigma**2, rel=0.02, abs=0.04
        )  # sampled, not integrated
    torch.testing.assert_close(gaussian_blur(torch.full((3, 20, 20), 0.3), sigma), torch.full((3, 20, 20), 0.3))


def test_jpeg_loses_more_at_lower_quality():
    image = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    fine, coarse = (through_jpeg(image, quality) for quality in (95, 10))
    assert fine.shape == coarse.shape == image.shape
    assert fine.dtype == torch.float32
    assert 0 <= float(coarse.min()) <= float(coarse.max()) <= 1
    errors = [float((out - image).square().mean().sqrt()) for out in (fine, coarse)]
    assert errors[1] > 1.2 * errors[0]
    ramp = torch.linspace(0.2, 0.8, 32).expand(3, 24, 32)  # neither channels nor axes are swapped
    tinted = ramp * torch.tensor([1.0, 0.7, 0.4])[:, None, None]
    assert float((through_jpeg(tinted, 95) - tinted).abs().max()) < 0.03


@pytest.mark.parametrize("name", ["illumination", "noise"])
def test_degradations_grow_with_their_strength_and_stay_in_range(name):
    grey = torch.full((3, 32, 32), 0.5)
    changed = [
        degrade(draw(1), replace(OFF, **{f"{name}_prob": 1.0, name: strength}), grey) for strength in (0.0, 0.05, 2.0)
    ]
    assert torch.equal(changed[0], grey)
    assert 0 < float(changed[1].std()) < 0.06
    assert float(changed[2].std()) > 2 * float(changed[1].std())
    assert 0 <= float(changed[2].min()) <= float(changed[2].max()) <= 1
    if name == "illumination":
        assert torch.equal(changed[1][0], changed[1][1])  # light, not colour
        assert float(changed[1].diff(dim=-1).abs().max()) < 0.02  # and smooth


def test_all_degradations_together_stay_in_range():
    hard = replace(
        ROBUST, illumination=3.0, illumination_prob=1.0, blur_prob=1.0, noise=1.0, noise_prob=1.0, jpeg_prob=1.0
    )
    for seed in range(5):
        out = degrade(draw(seed), hard, torch.rand(3, 32, 32))
        assert 0 <= float(out.min()) <= float(out.max()) <= 1


def test_draw_repeats_and_keeps_its_bounds():
    one, other = draw(7), draw(7)
    values = [one.log_uniform(0.5, 2.0) for _ in range(200)]
    assert values == [other.log_uniform(0.5, 2.0) for _ in range(200)]
    assert 0.5 <= min(values) < 0.6
    assert 1.8 < max(values) <= 2.0
    assert np.median(values) == pytest.approx(1.0, abs=0.15)  # logarithmic: as often smaller as larger
    assert not any(one.chance(0.0) for _ in range(50))
    assert all(one.chance(1.0) for _ in range(50))
    assert augment.AUGMENTATIONS == {"robust": ROBUST, "cameras": CAMERAS, "paper": PAPER}


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.8])
def test_magnification_is_what_the_view_was_drawn_with(scale):
    size = (90, 130)
    upright = replace(OFF, resize=(scale, scale), resize_prob=1.0, aspect=(1.0, 1.0))
    view = homography(Draw(np.random.default_rng(1)), upright, SIDE, size)
    assert magnification(view, SIDE, size) == pytest.approx(scale)
    # under perspective: the middle of the view, measured on two neighbouring pixels
    tilted = replace(upright, perspective=0.5, perspective_prob=1.0)
    view = homography(Draw(np.random.default_rng(2)), tilted, SIDE, size)
    step = 1e-5
    corners = torch.tensor([[0, 0, 1], [step, 0, 1], [0, step, 1]], dtype=torch.float64) @ view.T
    places = corners[:, :2] / corners[:, 2:] * torch.tensor([size[1] / 2, size[0] / 2])
    right, down = places[1] - places[0], places[2] - places[0]
    area = float((right[0] * down[1] - right[1] * down[0]).abs()) / (step * SIDE / 2) ** 2
    assert magnification(view, SIDE, size) == pytest.approx(area**-0.5, rel=1e-3)


def test_a_view_of_soft_labels_holds_shares():
    layers = noise().layers.clone()
    layers[3] = 0.3
    ones = layers.clone()
    ones[3] = 1  # interpolation rounds to a little more than 1, which the loss refuses
    turned = replace(OFF, soft=True, rotate_prob=1.0)
    assert max(float(batches(turned, [example(ones)], seed=seed)(0)[1].max()) for seed in range(8)) == 1.0
    soft = batches(replace(OFF, soft=True), [example(layers)])(0)[1]
    assert float(soft.max()) == pytest.approx(0.3, abs=1e-5)
    assert (soft > 0.29).float().mean() > 0.4  # the rest lies outside the photo, or on its border
    assert not batches(OFF, [example(layers)])(0)[1].any()


def test_noise_of_a_camera_with_fewer_pixels_is_as_coarse_as_they_are():
    noisy = replace(OFF, noise=0.2, noise_prob=1.0)
    likeness = []
    for share in (None, 0.5, 0.25):
        coarse = {} if share is None else {"coarse": (share, share), "coarse_prob": 1.0}
        out = degrade(draw(3), replace(noisy, **coarse), torch.full((3, 64, 64), 0.5)) - 0.5
        pairs = torch.stack([out[:, :, 1:].flatten(), out[:, :, :-1].flatten()])
        likeness.append(float(torch.corrcoef(pairs)[0, 1]))
    assert abs(likeness[0]) < 0.1
    assert 0.5 < likeness[1] < likeness[2] < 0.99
