"""The library: denoise an array, look at the fitted filter, edit it, keep it. A quarter of a minute on two CPU cores.

Usage: python examples/denoise.py [OUTPUT_DIRECTORY]
"""

import sys
from pathlib import Path

import numpy as np
import torch
from skimage.data import camera

import attn
from attn.core.denoise.metrics import psnr

out = Path(sys.argv[1] if len(sys.argv) > 1 else "denoise-example")
out.mkdir(parents=True, exist_ok=True)

# part of a photo that ships with scikit-image, with noise that neighbouring pixels share, as in CT
clean = camera()[60:316, 120:376].astype(np.float32)
rng = np.random.default_rng(0)
white = rng.normal(0, 30, clean.shape)
noisy = clean + (white + np.roll(white, 1, 0) + np.roll(white, 1, 1)).astype(np.float32) / 3

fitted = attn.denoise(noisy, "filter2noise", window=(0, 255), quality="fast")
others = {method: attn.denoise(noisy, method, window=(0, 255)) for method in ("adaptive", "tv", "nlm", "wavelet")}
for method, result in {"filter2noise": fitted, **others}.items():
    print(f"{method:13s} {psnr(result.pixels, clean, data_range=255):.2f} dB, {result.fit_seconds:.1f} s to fit")
print(f"{'noisy':13s} {psnr(noisy, clean, data_range=255):.2f} dB")

# the fitted filter is explicit: three widths per patch and stage, which can be looked at and edited
(learned,) = fitted.filters
maps = learned.sigma_maps(torch.from_numpy(fitted.seen[0]))
for stage, (x, y, r) in enumerate(maps, 1):
    print(f"stage {stage}: sigma x {x.mean():.2f} px, sigma y {y.mean():.2f} px, sigma r {r.mean():.3f}")
seen, result = torch.from_numpy(fitted.seen[0]), torch.from_numpy(fitted.normalised[0])
gentler = learned.with_strength(0.5, ())(seen)
print(f"half the strength moves a pixel by {float((gentler - result).abs().mean()):.4f} on average")
learned.save(out / "filter.safetensors")
attn.write(out / "denoised.npy", fitted.pixels)
