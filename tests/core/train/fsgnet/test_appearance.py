from dataclasses import fields

import numpy as np
import pytest
import torch

from attn.core.train.fsgnet.appearance import appear, fade, narrowed, reflex, spots
from attn.core.train.fsgnet.augment import CAMERAS, PAPER, ROBUST, Augmentation, Draw

SIDE = 80


def draw(seed=0):
    return Draw(np.random.default_rng(seed))


def view():
    """A dark vessel 8 px wide and one 2 px wide on an even ground."""
    label = torch.zeros(1, SIDE, SIDE)
    label[:, :, 20:28] = label[:, :, 60:62] = 1
    return (0.6 - 0.2 * label).expand(3, -1, -1).clone(), label


def test_nothing_changes_and_nothing_is_drawn_where_no_change_is_asked_for():
    image, label = view()
    one = draw()
    for augmentation in (PAPER, ROBUST):
        assert torch.equal(appear(one, augmentation, image, label), image)
    assert one.uniform(0, 1) == draw().uniform(0, 1)


def test_contrast_changes_on_the_vessels_alone():
    image, label = view()
    factors = set()
    for seed in range(6):
        out = fade(draw(seed), image, label)
        assert torch.allclose(out[:, label[0] == 0], image[:, label[0] == 0])
        contrast = (0.6 - out[0][label[0] > 0]) / 0.2  # of what it was
        assert 0.3 < contrast.min() <= contrast.max() < 1.7
        factors.add(round(float(contrast.mean()), 2))
    assert len(factors) > 3


def test_reflex_is_a_ridge_along_the_middle_of_wide_vessels():
    _, label = view()
    ridge = reflex(label)[0]
    assert 0 <= ridge.min()
    assert ridge.max() <= 1
    assert not ridge[label[0] == 0].any()
    assert not ridge[:, 60:62].any()  # too thin
    across = ridge[SIDE // 2, 20:28]
    assert across[3] == across[4] == pytest.approx(1)
    assert across[0] < 0.2
    assert torch.equal(across, across.flip(0))


def test_spots_darken_and_brighten_and_leave_most_of_the_view():
    image, _ = view()
    changed = [spots(draw(seed), image) - image for seed in range(8)]
    assert any(change.min() < -0.05 for change in changed)
    assert any(change.max() > 0.05 for change in changed)
    assert all((change.abs() > 0.01).float().mean() < 0.7 for change in changed)


def test_a_narrower_field_is_part_of_the_field():
    whole = torch.ones(SIDE, SIDE, dtype=torch.bool)
    whole[:, :10] = False
    shares = []
    for seed in range(6):
        mask = narrowed(draw(seed), whole)
        assert not (mask & ~whole).any()
        shares.append(float(mask.float().mean()))
    assert 0.2 < min(shares) < max(shares) < 0.88


def test_cameras_changes_more_than_robust():
    stronger = [field.name for field in fields(Augmentation) if field.name.endswith("_prob")]
    assert all(getattr(CAMERAS, name) >= getattr(ROBUST, name) for name in stronger)
    assert CAMERAS.soft
    assert not ROBUST.soft
