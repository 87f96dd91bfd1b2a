"""``--lambda auto``: chosen from the noisy image alone, and better than the published value where that does nothing."""

import numpy as np
import pytest
import torch

from attn.core.denoise.base import FitOptions
from attn.core.denoise.filter2noise.method import EDGE_WEIGHTS, choose_edge_weight, fit
from attn.core.denoise.metrics import psnr


@pytest.mark.slow
def test_strong_noise_keeps_the_published_value(data_dir):
    pair = np.load(data_dir / "ct" / "mayo_slice_pair.npz")
    assert choose_edge_weight(torch.from_numpy(pair["noisy"]), FitOptions()) == EDGE_WEIGHTS[0]


@pytest.mark.slow
def test_where_the_published_value_removes_nothing_a_lower_one_is_closer_to_the_truth():
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[:128, :128]
    clean = (0.4 + 0.3 * ((rows - 64) ** 2 + (columns - 60) ** 2 < 40**2)).astype(np.float32)
    white = rng.normal(0, 0.02, clean.shape)
    shared = sum(np.roll(white, shift, axis) for axis in (0, 1) for shift in (0, 1)) / 2  # correlated, as in CT
    noisy = clean + shared.astype(np.float32)
    image = torch.from_numpy(noisy)
    published = fit(image, FitOptions(quality="fast", edge_weight=400.0))
    chosen = fit(image, FitOptions(quality="fast"))
    assert chosen.options.edge_weight < EDGE_WEIGHTS[0]
    assert fit(image, FitOptions(quality="paper", steps=1)).options.edge_weight == EDGE_WEIGHTS[0]  # as published
    assert psnr(chosen(image).numpy(), clean) > psnr(published(image).numpy(), clean) + 0.5
