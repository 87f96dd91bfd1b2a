"""Inputs and bounds that the tests of all operators share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# B, Hq, Hkv, Lq, Lk, D: odd lengths, grouped heads, decode, a single key, an empty batch
SHAPES = [
    (1, 1, 1, 64, 64, 32),
    (2, 4, 2, 97, 97, 64),
    (1, 6, 1, 200, 333, 80),
    (1, 2, 2, 1, 257, 64),
    (1, 1, 1, 1, 1, 32),
    (0, 2, 1, 50, 50, 32),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def random_qkv(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", *, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Gaussian q, k, v of shape (B, Hq, Hkv, Lq, Lk, D), drawn in float64 so that every dtype sees the same numbers."""
    batch, heads, kv_heads, len_q, len_k, dim = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = ((batch, heads, len_q, dim), (batch, kv_heads, len_k, dim), (batch, kv_heads, len_k, dim))
    q, k, v = (
        torch.randn(size, generator=generator, dtype=torch.float64).to(device=device, dtype=dtype) for size in sizes
    )
    return q, k, v


def assert_as_accurate_as_eager(out: Tensor, reference: Callable[..., Tensor], *qkv: Tensor, **params: Any) -> None:
    """STYLE.md 3.8: the error is at most twice what the reference has in the same dtype, and under the ceiling."""
    truth = reference(*(t.double() for t in qkv), **params)
    assert out.shape == truth.shape
    assert out.dtype == qkv[0].dtype
    if not truth.numel():
        return
    error = (out.double() - truth).abs().max().item()
    eager = (reference(*qkv, **params).double() - truth).abs().max().item()
    assert error <= 2 * eager + 1e-5, f"max error {error:.2e}, eager {eager:.2e}, ratio {error / max(eager, 1e-12):.1f}"
    ceiling = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(qkv[0].dtype)
    share = error / max(truth.abs().max().item(), 1e-30)
    if ceiling is not None and eager <= ceiling * truth.abs().max().item():
        assert share <= ceiling, f"max error {share:.2e} of the largest value, ceiling {ceiling:.0e}"


def assert_near_truth(out: Tensor, eager: Tensor, truth: Tensor, name: str, floor: float | None = None) -> None:
    """STYLE.md 3.8 for results already there: at most twice eager's error, and ``floor`` of the largest value.

    ``floor``: by default 1e-5 of float32, 1e-3 of what is narrower.
    """
    error, eager_error = ((x.double() - truth).abs().max().item() for x in (out, eager))
    if floor is None:
        floor = 1e-5 if out.dtype == torch.float32 else 1e-3
    bound = 2 * eager_error + floor * max(1.0, truth.abs().max().item())
    assert error <= bound, f"{name}: {error:.2e}, eager {eager_error:.2e}"


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """torch, and with it our kernels, on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class LargestTensor(TorchDispatchMode):
    """Size of the largest storage that an operation inside hands out: ``bytes``, and ``elements`` of its dtype.

    A dispatch mode sees only its own thread, so the work inside is done by one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.elements = 0
        self._threads = threads(1)

    def __enter__(self) -> LargestTensor:
        self._threads.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._threads.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                size = tensor.untyped_storage().nbytes()
                self.bytes = max(self.bytes, size)
                self.elements = max(self.elements, size // tensor.itemsize)
        return out
