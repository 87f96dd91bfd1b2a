"""The bars of the shorter recipes on the real slice pair; the official implementation reaches 38.796 dB and 0.9070.

``--quality paper`` takes minutes and is checked by hand (tests/benchmarks/denoise.md); the golden vectors fix its
first 30 steps.
"""

import numpy as np
import pytest
import torch

from attn.core.denoise.base import FitOptions
from attn.core.denoise.filter2noise.method import fit
from attn.core.denoise.metrics import psnr, ssim

OFFICIAL_PSNR, OFFICIAL_SSIM = 38.796, 0.9070


@pytest.mark.slow
@pytest.mark.parametrize(("quality", "loss_db", "loss_ssim"), [("balanced", 0.1, 0.002), ("fast", 0.4, 0.01)])
def test_shorter_recipes_stay_close_to_the_official_result(data_dir, quality, loss_db, loss_ssim):
    pair = np.load(data_dir / "ct" / "mayo_slice_pair.npz")
    noisy = torch.from_numpy(pair["noisy"])
    fitted = fit(noisy, FitOptions(quality=quality))
    result = fitted(noisy).numpy()
    print(quality, psnr(result, pair["clean"]), ssim(result, pair["clean"]))
    assert fitted.options.edge_weight == 400
    assert psnr(result, pair["clean"]) >= OFFICIAL_PSNR - loss_db
    assert ssim(result, pair["clean"]) >= OFFICIAL_SSIM - loss_ssim
