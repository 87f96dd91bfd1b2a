"""PSNR and SSIM against the official evaluation: methods/filter2noise.md, section 10, tolerance 1e-5."""

from pathlib import Path

import numpy as np
import pytest

from attn.core.denoise.metrics import psnr, ssim


@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_metric_equals_the_golden_value(name: str) -> None:
    golden = np.load(Path(__file__).parent / "vectors" / "filter2noise" / "metrics.npz")
    value = {"psnr": psnr, "ssim": ssim}[name](golden["noisy"], golden["clean"])
    assert value == pytest.approx(float(golden[name]), abs=1e-5)
