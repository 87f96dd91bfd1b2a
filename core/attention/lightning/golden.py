"""Parity of lightning attention: methods/lightning.md, section 10. Outputs 1e-5 + 1e-5 relative, gradients 2e-5."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ...nets.tnl import srms_norm
from ..golden import Arrays, Check, max_error
from .decay import slopes
from .operator import OPERATOR, lightning_attention, recurrent


def check(stem: str, data: Arrays) -> Iterator[Check]:
    """Compare ours with one golden file."""
    if stem == "slopes":
        for name, golden in data.items():
            yield Check(name, max_error(slopes(int(name[1:])), golden), 1e-7)
    elif stem == "srmsnorm":
        yield Check("y", max_error(srms_norm(torch.from_numpy(data["x"])), data["y"]), 1e-6)
    else:
        yield from _operator(data)


def _operator(data: Arrays) -> Iterator[Check]:
    heads, layer, num_layers = (int(data["cfg"][i]) for i in (1, 5, 6))
    slope = torch.from_numpy(data["slope"])
    ours = slopes(heads, layer=layer, num_layers=num_layers)
    yield Check("slope", max_error(ours, data["slope"].ravel()), 1e-7)
    q, k, v = (torch.from_numpy(data[name]).requires_grad_() for name in ("q", "k", "v"))
    for block in (64, 128):
        out, state = lightning_attention(q, k, v, slope, return_state=True, block_size=block)
        grads = torch.autograd.grad(out, (q, k, v), torch.from_numpy(data["do"]))
        yield _close(f"out, block {block}", out, data["out"])
        yield _close(f"state, block {block}", state, data["state"])
        for name, grad in zip(("dq", "dk", "dv"), grads, strict=True):
            yield Check(f"{name}, block {block}", max_error(grad, data[name]), 2e-5)
    q, k, v = (x.detach() for x in (q, k, v))
    yield _close("out_nodecay", lightning_attention(q, k, v), data["out_nodecay"])
    yield _close("out, recurrent", recurrent(q, k, v, slope)[0], data["out"])
    yield _close("out, reference", OPERATOR.reference(q, k, v, decay="custom", slope=slope), data["out"])
    out = OPERATOR.blocked(q.bfloat16(), k.bfloat16(), v.bfloat16(), decay="custom", slope=slope)
    share = max_error(out.float(), data["out"]) / float(np.abs(data["out"]).max())
    yield Check("out, bfloat16, of the largest", share, 2e-2)


def _close(quantity: str, ours: object, golden: np.ndarray) -> Check:  # type: ignore[type-arg]
    """The largest |ours - golden| / (1 + |golden|): at most 1e-5 is the specification's 1e-5 + 1e-5 relative."""
    values = ours.detach().numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours)
    if values.shape != golden.shape:
        return Check(quantity, float("inf"), 1e-5)
    return Check(quantity, float((np.abs(values - golden) / (1 + np.abs(golden))).max()), 1e-5)
