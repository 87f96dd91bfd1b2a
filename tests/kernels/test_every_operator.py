"""No phase of an attention operator lacks a Triton formulation, but for those named here, which do lack it."""

from __future__ import annotations

import pytest

from attn.core.attention.registry import OPERATORS

NONE_WANTED = {
    "window+sink select": "a rule: nothing is computed",
    "blocktopk select": "a baseline: means, products and top-k of PyTorch",
    "flux select": "a router of whole layers, or sums of PyTorch's products over blocks",
    "oracle select": "the upper bound of any selection: dense by definition",
    "oracle attend": "the upper bound of any selection: dense by definition",
    "flex attend": "PyTorch's own kernel",
    "fla attend": "the package's own kernel",
}
"""Phases that are no kernel's business, and why."""
MISSING = {
    "hip select", "dsa select", "dsa attend", "hisa select", "hisa attend",
    "superlinear select", "superlinear attend", "rectified select", "bra select",
    "sparsifiner select", "sparsifiner attend",
}  # fmt: skip
"""Kernels that are still to be written: strike out what is done."""


def lacking() -> set[str]:
    found = set()
    for name, row in OPERATORS.items():
        phases = () if row.missing() else row.resolve().phases
        for word, phase in zip(("attend",) if len(phases) == 1 else ("select", "attend"), phases, strict=False):
            if not phase.offers("triton"):
                found.add(f"{name} {word}")
    return found


def test_no_operator_lacks_a_kernel_but_those_named():
    missing = lacking() - set(NONE_WANTED)
    assert missing <= MISSING, "a phase without a Triton kernel"
    assert missing >= MISSING, "done: strike it out of MISSING"


def test_what_wants_no_kernel_has_none():
    known = {f"{name} {word}" for name in OPERATORS for word in ("select", "attend")}
    assert set(NONE_WANTED) <= known
    absent = {f"{name} attend" for name, row in OPERATORS.items() if row.missing()}
    assert set(NONE_WANTED) - absent <= lacking()


@pytest.mark.parametrize("name", [name for name, row in OPERATORS.items() if not row.missing()])
def test_a_kernel_says_where_it_does_not_run(name):
    """On this machine's CPU, compiler or interpreter, nothing of a GPU is chosen: each says why in one clause."""
    import torch

    q = torch.zeros(1, 1, 16, 16)
    for phase in OPERATORS[name].resolve().phases:
        for formulation in phase.formulations:
            if formulation.backend == "triton":
                reason = formulation.refuses(q, q, q)
                assert reason is None or "\n" not in reason
                assert torch.cuda.is_available() or reason
