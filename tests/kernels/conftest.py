"""What tests of Triton kernels share: where they run, a cache not the developer's, and memory that shows misuse."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

if "TRITON_CACHE_DIR" not in os.environ:  # else what was compiled before serves again, as on CI
    _CACHE = tempfile.TemporaryDirectory(prefix="attn-triton-")  # removed when the process ends
    os.environ["TRITON_CACHE_DIR"] = _CACHE.name
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # the default changes in Triton 3.10, and results with it

import torch
import triton

from attn.kernels import launch

GUARD = 64  # elements in front of and behind every tensor
SANITISED = "ttsem.sanitize" in sys.modules
"""Whether every launch runs on the CPU by the compiler's own code, which looks at each access (sanitise.py). It knows
where a tensor ends: nothing is put around one."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What the interpreter runs on the CPU runs on a GPU as it is: ``pytest -m gpu``."""
    for item in items:
        if item.get_closest_marker("interpret"):
            item.add_marker("gpu")


@pytest.fixture(scope="session")
def interpreted() -> bool:
    """Whether Triton's interpreter, or the sanitiser, stands in for a GPU in this process."""
    return bool(triton.knobs.runtime.interpret) or SANITISED


@pytest.fixture
def device(interpreted: bool) -> torch.device:
    """Where kernels run: the CPU under the interpreter, else a GPU, else the test is skipped."""
    if interpreted:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    pytest.skip("run with TRITON_INTERPRET=1 (no GPU here)")


@pytest.fixture
def bfloat16(device: torch.device) -> torch.dtype:
    """The dtype, where its products are right: on a GPU, and by the sanitiser."""
    if triton.knobs.runtime.interpret:
        pytest.skip("products of bfloat16 are wrong with TRITON_INTERPRET=1: run by sanitise.sh")
    return torch.bfloat16


@pytest.fixture
def guarded() -> Callable[[torch.Tensor], torch.Tensor]:
    """Copies a tensor between two stretches of NaN, so that a read past either end poisons the result."""
    return torch.clone if SANITISED else lambda tensor: _between_nans(tensor).copy_(tensor)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """``launches(module, *names)``: a list that every launch of these kernels of a module adds its name to."""

    def watch(module: ModuleType, *names: str) -> list[str]:
        launched: list[str] = []
        for name in names:
            monkeypatch.setattr(module, name, _Counted(getattr(module, name), name, launched))
        return launched

    return watch


class _Counted:
    """A kernel that writes down its launches."""

    def __init__(self, kernel: Any, name: str, launched: list[str]) -> None:
        self.kernel, self.name, self.launched = kernel, name, launched

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        self.launched.append(self.name)
        return self.kernel[grid]


def _between_nans(like: torch.Tensor) -> torch.Tensor:
    """A contiguous tensor of NaN, of the shape of ``like``, with ``GUARD`` more NaNs before and after it."""
    whole = like.new_full((like.numel() + 2 * GUARD,), torch.nan)
    return whole[GUARD : GUARD + like.numel()].view(like.shape)


@pytest.fixture(autouse=True)
def _in_the_place_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sanitiser takes tensors of the CPU, which wrappers refuse elsewhere."""
    monkeypatch.setattr(launch, "CPU_TOO", SANITISED)


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``torch.empty_like`` holds NaN, and what a kernel writes before or behind its tensor fails the test."""
    if SANITISED:
        monkeypatch.setattr(torch, "empty_like", lambda tensor: tensor.new_full(tensor.shape, torch.nan))
        yield
        return
    given: list[torch.Tensor] = []

    def empty_like(tensor: torch.Tensor) -> torch.Tensor:
        given.append(_between_nans(tensor))
        return given[-1]

    monkeypatch.setattr(torch, "empty_like", empty_like)
    yield
    for tensor in given:
        whole = tensor.new_empty(0).set_(tensor.untyped_storage())
        assert whole[:GUARD].isnan().all(), "a kernel wrote in front of its tensor"
        assert whole[whole.numel() - GUARD :].isnan().all(), "a kernel wrote past the end of its tensor"
