"""Every attention operator of attn as the circuit's softmax: a wrong one breaks the prediction that is known.

Operators that leave keys out get a budget for all of them: then they are exact, or something is wrong with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ....attention import attention
from ....attention.registry import OPERATORS
from ..network import HeadMatrices, predict, scores, seen, weights
from ..problem import Regressions
from .built import PROBLEM, KnownAnswer, circuit_of, exact, largest_error, some_prompts

SINGLE, DOUBLE = 1e-4, 1e-10
"""Largest errors that rounding explains, relative, in float32 and float64."""
SIZE = 32
"""Of a head: tokens are filled up with zeros, for kernels that take no smaller one."""
ALL: Mapping[str, Mapping[str, Any]] = {
    "dense": {}, "dsa": {}, "hisa": {}, "superlinear": {}, "blocktopk": {}, "oracle": {},
    "hip": {"mask_k": 64, "sliding_window": 64}, "flux": {"mode": "streaming", "local": 128},
    "rectified": {"drop_rate": 0.0}, "bra": {"n_win": 2, "topk": 4},
    "halo": {"block_size": 8, "mask_border": True}, "window+sink": {"window": 64}, "flex": {"window": 64},
}  # fmt: skip
"""Operator -> parameters with which it sees all of 64 keys."""
LINEAR_ONES = ("lightning",)
"""Operators without a softmax: they must be told from the circuit's."""
WINDOW = 8


def tensors(heads: HeadMatrices, prompts: Regressions, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """q, k and v [B, H, L + 1, SIZE] of all tokens, the query last; the first entry of v is what is read of a token."""
    tokens = seen(prompts, attend_query=True)[0].transpose(1, 2).to(device, dtype)  # [B, L + 1, d + 1]
    kq, ov = (x[0].to(device, dtype) for x in heads)
    q = torch.einsum("hij,blj->bhli", kq, tokens)
    v = torch.einsum("hkj,blj->bhlk", ov, tokens)
    k = tokens[:, None].expand_as(q)
    return tuple(torch.nn.functional.pad(x, (0, SIZE - x.shape[-1])) for x in (q, k, v))


def answered(name: str, qkv: tuple[Tensor, ...], backend: str, **given: Any) -> Tensor:
    """The prediction by an operator [B]: the last token's, all heads added up."""
    operator = OPERATORS[name].resolve()
    causal = True in operator.causal
    if operator.grid:
        given["grid"] = (8, 8)
    q, k, v = qkv
    out = attention(name, q, k, v, causal=causal, scale=1.0, backend=backend, **given)
    said: Tensor = out[:, :, -1, 0].sum(1)
    return said


def backends_of(name: str, device: torch.device) -> list[str]:
    """What can be asked for here, ``reference`` first."""
    named = OPERATORS[name].resolve().backends & {"reference", "torch", "cpu", "triton"}
    usable = named - ({"cpu"} if device.type != "cpu" else {"triton"})
    return sorted(usable, key=lambda backend: (backend != "reference", backend))


def operators(seed: int, device: torch.device) -> Iterator[KnownAnswer]:
    """Predictions by every operator and backend."""
    heads, prompts = circuit_of(), some_prompts(seed)
    expected = predict(heads, prompts, attend_query=True)[0, :, 0]
    double = tensors(heads, prompts, torch.float64, torch.device("cpu"))
    yield exact("dense, reference, float64", answered("dense", double, "reference"), expected, DOUBLE)
    qkv = tensors(heads, prompts, torch.float32, device)
    for name, given in ALL.items():
        if OPERATORS[name].missing():
            continue
        for backend in backends_of(name, device):
            yield exact(f"{name}, {backend}", answered(name, qkv, backend, **given), expected, SINGLE)
    for name in LINEAR_ONES:
        error = largest_error(answered(name, qkv, "auto"), expected)
        yield KnownAnswer(f"{name} is told from softmax (1: yes)", float(error > 100 * SINGLE), 1)
    last = prompts._replace(tokens=prompts.tokens[..., 1 - WINDOW :])
    seen_by_window = predict(heads, last, attend_query=True)[0, :, 0]
    narrow = answered("window+sink", qkv, "auto", window=WINDOW, num_sinks=0)
    yield exact(f"a window of {WINDOW} sees the last examples alone", narrow, seen_by_window, SINGLE)
    error = largest_error(narrow, expected)
    yield KnownAnswer("and is told from the whole (1: yes)", float(error > 100 * SINGLE), 1)


def gradients(seed: int, device: torch.device) -> Iterator[KnownAnswer]:
    """Gradients of the prediction, whose closed forms are known where KQ = w I and OV reads the label alone.

    By a label y_l: sum_h m_h a_hl. By covariates x_l: sum_h m_h w_h a_hl (y_l - sum_j a_hj y_j) x_q.
    """
    heads, prompts = circuit_of(), some_prompts(seed)
    dim, length = PROBLEM.dim, PROBLEM.length
    a = weights(scores(heads.kq, prompts, attend_query=True), "softmax")[0]  # [B, H, L + 1]
    y = seen(prompts, attend_query=True)[0][:, dim]
    w, m = heads.kq[0, :, 0, 0], heads.ov[0, :, 0, dim]
    by_label = torch.einsum("h,bhl->bl", m, a)[:, :length]
    away = y[:, None] - (a * y[:, None]).sum(-1, keepdim=True)
    by_covariates = torch.einsum("h,bhl,bd->bdl", m * w, a * away, prompts.query[0])[..., :length]
    for name, given in ALL.items():
        row = OPERATORS[name]
        if row.missing() or not row.resolve().differentiable:
            continue
        z = prompts.tokens.to(device, torch.float32).requires_grad_()
        here = Regressions(z, *(x.to(device, torch.float32) for x in prompts[1:]))
        said = answered(name, tensors(heads, here, torch.float32, device), "auto", **given).sum()
        said.backward()  # type: ignore[no-untyped-call]
        assert z.grad is not None
        yield exact(f"{name}: by labels", z.grad[0][:, dim], by_label, SINGLE)
        yield exact(f"{name}: by covariates", z.grad[0][:, :dim], by_covariates, 10 * SINGLE)
