"""Attention operators as a library: one door, the same tensors for all of them. A few seconds on two CPU cores.

Usage: python examples/attention.py [OUTPUT_DIRECTORY]
"""

import sys
from pathlib import Path

import torch

from attn.core.attention import attention, operators
from attn.core.bench.inputs import generate

out = Path(sys.argv[1] if len(sys.argv) > 1 else "attention-example")
out.mkdir(parents=True, exist_ok=True)
print("operators:", ", ".join(operators()))

# 8 query heads on 2 key/value heads, 4096 tokens, head dimension 64: [B, Hq, Lq, D], [B, Hkv, Lk, D], [B, Hkv, Lk, Dv]
made = generate("lowrank", num_heads=8, num_kv_heads=2, len_q=4096, head_dim=64, seed=0)
q, k, v = made.q, made.k, made.v
exact = attention("dense", q, k, v, causal=True)

for name, params in (
    ("window+sink", {"window": 512}),
    ("blocktopk", {}),
    ("hip", {"mask_k": 256}),
    ("superlinear", {}),
):
    approximate = attention(name, q, k, v, causal=True, **params)
    error = (approximate - exact).norm() / exact.norm()
    print(f"{name:12} {params!s:18} relative error {error:.3f}")

# decoding: one new query against all keys
last = attention("hip", q[:, :, -1:], k, v, causal=True)
print("one query:", tuple(last.shape), "error", f"{(last - exact[:, :, -1:]).norm() / exact[:, :, -1:].norm():.3f}")

# which keys hip chose for the last query of head 0, as a file to look at
from attn.core.attention import OPERATORS  # noqa: E402

selection = OPERATORS["hip"].resolve().select(q, k, causal=True, scale=None)
chosen = selection.mask(torch.tensor([4095]))[0, 0, 0].nonzero()[:, 0]
torch.save(chosen, out / "chosen_keys.pt")
print(f"hip attends to {len(chosen)} of 4096 keys; positions in {out / 'chosen_keys.pt'}")
