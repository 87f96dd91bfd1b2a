"""What a processor can do, and what the environment leaves of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from attn.core import cpu as subject

ALL = dict.fromkeys(("avx2", "avx512", "avx512_bf16", "amx_bf16", "amx_fp16"), True)


@pytest.fixture
def detect(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(subject, "_capabilities", lambda: ALL)
    return subject._detected.__wrapped__


def usable(cpu: subject.Cpu) -> list[str]:
    return [name for name in ALL if getattr(cpu, name)]


def test_without_a_limit_everything_counts_that_the_processor_has(detect: Any) -> None:
    assert usable(detect()) == list(ALL)
    assert detect().onednn_isa == "ALL"


@pytest.mark.parametrize(
    ("limit", "left"),
    [("AVX2", 1), ("avx512_core", 2), ("AVX512_CORE_BF16", 3), ("AVX512_CORE_AMX", 4), ("AVX512_CORE_AMX_FP16", 5)],
)
def test_what_onednn_may_not_use_does_not_count(
    detect: Any, monkeypatch: pytest.MonkeyPatch, limit: str, left: int
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert usable(detect()) == list(ALL)[:left]
    assert f"oneDNN<={limit.upper()}" in detect().flags


def test_a_limit_that_onednn_does_not_know_is_none(detect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX1024")
    assert usable(detect()) == list(ALL)
    assert detect().onednn_isa == "ALL"


def test_another_processor_takes_its_place_in_all_threads() -> None:
    other = subject.Cpu("Xeon", "GenuineIntel", "AVX512", **ALL)
    with subject.cpu_as(other), ThreadPoolExecutor(1) as pool:
        assert subject.cpu() is other
        assert pool.submit(subject.cpu).result() is other
    assert subject.cpu() is not other
    assert other.intel
