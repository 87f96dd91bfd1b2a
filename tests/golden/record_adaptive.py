"""python record_adaptive.py FOLDER: record vectors/adaptive from the method's reference implementation.

FOLDER holds ``adaptive-denoise`` and ``adaptive-volume``, in a place that can be written to (numba keeps its cache
there). Development seeds only. Kept: the noisy slice, its truth, level, correlation, synthetic noise, weights, result.
The level map and the weights are smooth: every fourth row and column of them is kept. The parts of the phantoms are
such that no pixel is so near to the threshold of flat pixels that rounding moves it.
"""

import sys
from pathlib import Path

import numpy as np

FOLDER = Path(sys.argv[1])
OUT = Path(__file__).parent / "vectors" / "adaptive"
sys.path[:0] = [str(FOLDER / name) for name in ("adaptive-denoise", "adaptive-volume")]

import adaptive  # noqa: E402
import noise_model  # noqa: E402
import phantoms  # noqa: E402
import series_phantoms  # noqa: E402
import volume  # noqa: E402

from attn.core.denoise.metrics import psnr  # noqa: E402

RNG = np.random.default_rng(13)


def scaled(hu, low, high):
    return np.clip((hu - low) / (high - low), 0, 1).astype(np.float32)


def ct(kind, seed, kernel, dose, box, low, high):
    """Noisy slice and truth: a part of a phantom, low and high HU mapped to 0 and 1."""
    truth = phantoms.phantom(kind, seed, cutoff_per_mm=phantoms.KERNELS[kernel])
    noisy = phantoms.scan(truth, dose, 0.7, phantoms.KERNELS[kernel], seed=seed + 7)
    return scaled(noisy[box], low, high), scaled(truth[box], low, high)


def record(name, noisy, truth, valid=None):
    model = noise_model.estimate(noisy, valid)
    filtered, passed = adaptive.candidates(noisy, model)
    result, weights = adaptive.mix(noisy, model.level, filtered, passed)
    again, _ = adaptive.denoise(noisy, valid)
    assert np.array_equal(result, again)
    arrays = {
        "noisy": noisy,
        "truth": truth,
        "level": model.level[::4, ::4],
        "correlation": model.correlation,
        "sample": model.sample(np.random.default_rng(0)),
        "weights": weights[:, ::4, ::4],
        "result": result,
    }
    arrays = {key: a.astype(np.float32) for key, a in arrays.items()}
    if valid is not None:
        arrays["valid"] = valid
    np.savez_compressed(OUT / f"{name}.npz", **arrays)


def record_series(name, offsets):
    """Five slices on uneven positions, their grids shifted by parts of pixels, their noise correlated from one to the
    next. Of a shifted series the quality is kept instead of the result: ours leaves out the edge pixels that the
    reference repeats where a shifted neighbour ends."""
    truth = series_phantoms.series("abdomen", 1, slices=5, side=96, pixel_mm=1.4, spacing_mm=2.5)
    noisy = series_phantoms.scan_series(truth, 0.25, 1.4, 0.7, seed=2)
    noise = noisy - truth
    noisy = truth + 0.8 * noise + 0.6 * np.roll(noise, 1, axis=0)
    positions = np.array([0, 2.5, 5.0, 9.0, 11.5])
    boxes = [(slice(10 + round(y), 74 + round(y)), slice(14 + round(x), 78 + round(x))) for y, x in offsets]
    x, t = (np.stack([scaled(a[box], -200, 300) for a, box in zip(s, boxes, strict=True)]) for s in (noisy, truth))
    found = sorted(volume.denoise_series(x, positions, offsets), key=lambda item: item[0])
    result = [y for _, y, _ in found]
    arrays = {
        "noisy": x,
        "truth": t,
        "positions": positions,
        "offsets": offsets,
        "correlations": [np.pad(maps["rho"], (0, 6 - len(maps["rho"])), constant_values=-1) for _, _, maps in found],
    }
    if offsets.any():
        arrays["psnr"] = [psnr(np.clip(y, 0, 1), clean) for y, clean in zip(result, t, strict=True)]
    else:
        arrays["result"] = result
        arrays["from_neighbours"] = [maps["from_neighbours"].mean() for _, _, maps in found]
        arrays["alone"] = volume.slicewise(x[3], seed=3).alone
    np.savez_compressed(OUT / f"{name}.npz", **{key: np.asarray(a, np.float32) for key, a in arrays.items()})


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    truth = scaled(phantoms.phantom("inserts", 0), -160, 240)[100:196, 20:116]
    record("white", (truth + 0.03 * RNG.standard_normal(truth.shape)).astype(np.float32), truth)
    record("correlated", *ct("abdomen", 1, "standard", 0.25, np.s_[130:226, 60:156], -500, 500))
    record("clipped", *ct("chest", 2, "sharp", 0.1, np.s_[90:169, 40:151], -900, 300))
    noisy, truth = ct("head", 0, "smooth", 0.5, np.s_[112:208, 112:208], -100, 300)
    valid = np.hypot(*(np.mgrid[:96, :96] - 47.5)) < 46
    record("round", np.where(valid, noisy, 0), truth, valid)
    record_series("series", np.zeros((5, 2)))
    record_series("tilted", np.array([(0, 0), (1.3, 0), (2.6, -1), (3.9, -1.4), (5.2, -2.2)]))
