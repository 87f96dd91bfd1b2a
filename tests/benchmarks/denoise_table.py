"""All denoisers on simulated low doses of real CT slices: mean PSNR, SSIM and RMSE in HU, as a Markdown table.

    python tests/benchmarks/denoise_table.py DATA [--dose 0.25] [--methods tv,nlm] [--quality fast]

DATA holds ``dicom/ct`` and ``dicom/series_ge_head_tilt``. Each slice is its own reference: where it is noisy itself,
taking its noise away counts as an error. The window is the noisy slice's own range within -1024 to 3071 HU.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from attn.core.denoise import METHODS
from attn.core.denoise.base import FitOptions
from attn.core.denoise.metrics import psnr, rmse, ssim
from attn.core.denoise.simulate import simulate_low_dose
from attn.core.errors import AttnError
from attn.core.io import read_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--dose", type=float, default=0.25)
    parser.add_argument("--methods", default=",".join(name for name, method in METHODS.items() if not method.missing()))
    parser.add_argument("--quality", default="balanced", choices=["fast", "balanced", "paper"])
    options = parser.parse_args()
    names = options.methods.split(",")

    rows: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    best: dict[str, int] = defaultdict(int)
    for path in sorted(
        [*(options.data / "dicom/ct").iterdir(), *(options.data / "dicom/series_ge_head_tilt").iterdir()]
    ):
        try:
            image = read_image(path)
        except AttnError as error:
            print(f"left out: {error}")
            continue
        hu, valid = image.pixels[0], None if image.valid is None else image.valid[0]
        pixel_mm = float(np.mean(image.spacing_mm)) if image.spacing_mm else 1.0
        noisy = simulate_low_dose(hu, dose=options.dose, pixel_mm=pixel_mm, valid=valid)
        seen = noisy if valid is None else noisy[valid]
        low, high = max(-1024.0, float(seen.min())), min(3071.0, float(seen.max()))

        def to_unit(x: np.ndarray, low: float = low, high: float = high) -> np.ndarray:
            return np.clip((x - low) / (high - low), 0, 1).astype(np.float32)

        clean, start = to_unit(hu), torch.from_numpy(to_unit(noisy))
        scores: dict[str, float] = {}
        for name in ["noisy", *names]:
            begin = time.perf_counter()
            fitted = (
                (lambda x: x)
                if name == "noisy"
                else METHODS[name].resolve()(start, FitOptions(quality=options.quality))
            )
            result = fitted(start).numpy()
            seconds = time.perf_counter() - begin
            scores[name] = psnr(result, clean, valid=valid)
            error = rmse(result, clean, valid=valid) * (high - low)
            rows[name].append((scores[name], ssim(result, clean, valid=valid), error, seconds))
        best[max(scores, key=lambda name: scores[name])] += 1
        print(path.name, " ".join(f"{name} {score:.2f}" for name, score in scores.items()), flush=True)

    print(f"\n| method | PSNR | SSIM | RMSE (HU) | s/slice | best of {len(rows['noisy'])} |\n|---|---|---|---|---|---|")
    for name, values in sorted(rows.items(), key=lambda row: -np.mean([v[0] for v in row[1]])):
        mean = np.mean(values, axis=0)
        print(f"| {name} | {mean[0]:.2f} | {mean[1]:.4f} | {mean[2]:.1f} | {mean[3]:.2f} | {best[name]} |")


if __name__ == "__main__":
    main()
