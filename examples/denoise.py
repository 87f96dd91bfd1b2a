"""The library: denoise an array, look at the filter, edit it, keep it. A quarter of a minute on two CPU cores.

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

fitted = attn.denoise(noisy, window=(0, 255))
others = {method: attn.denoise(noisy, method, window=(0, 255)) for method in ("tv", "nlm", "wavelet")}
others["filter2noise"] = attn.denoise(noisy, "filter2noise", window=(0, 255), quality="fast")
for method, result in {"adaptive": fitted, **others}.items():
    print(f"{method:13s} {psnr(result.pixels, clean, data_range=255):.2f} dB, {result.fit_seconds:.1f} s to fit")
print(f"{'noisy':13s} {psnr(noisy, clean, data_range=255):.2f} dB")

# the filter is explicit: noise level, widths and the weights of its six filters at every pixel
(mixture,) = fitted.filters
seen, result = torch.from_numpy(fitted.seen[0]), torch.from_numpy(fitted.normalised[0])
maps = mixture.maps(seen)
print(f"noise {255 * maps['noise_level'].mean():.1f} grey values, sigma s {maps['sigma_s'].mean():.2f} px on average")
print("weights of the filters:", " ".join(f"{share:.2f}" for share in maps["weights"].mean((1, 2))))
gentler = mixture.with_strength(0.5)(seen)
print(f"half the strength moves a pixel by {255 * float((gentler - result).abs().mean()):.2f} grey values on average")
mixture.save(out / "filter.safetensors")
attn.write(out / "denoised.npy", fitted.pixels)
