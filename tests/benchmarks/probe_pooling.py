"""EP by the pool-first identity against the literal formulation, and against AIM: CPU time of one thread in one run.

Specification: methods/efficient-probing.md, section 7. Usage: python tests/benchmarks/probe_pooling.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from attn.core.nets.poolings.contract import TokenShape, pooling_of

PICTURES, TOKENS, WIDTH = 64, 196, 768


def literal(x: Tensor, queries: Tensor, values: Tensor) -> Tensor:
    """Section 3.1 as it stands: the values of all tokens are made."""
    maps = torch.softmax(queries @ x.mT * x.shape[-1] ** -0.5, -1)
    v = (x @ values.T).unflatten(-1, (queries.shape[1], -1))
    return torch.einsum("bmn,bnmd->bmd", maps, v).flatten(1)


def milliseconds(work: Callable[[], object], repeats: int = 5) -> float:
    """CPU time, median after one run."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1e3 * statistics.median(times)


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(PICTURES, TOKENS, WIDTH)
    aim = pooling_of("aim", TokenShape(WIDTH, TOKENS)).eval()
    for queries in (8, 32):
        ep = pooling_of("ep", TokenShape(WIDTH, TOKENS, None, queries)).eval()
        bank, values = ep.get_parameter("cls_token"), ep.get_parameter("v.weight")
        torch.testing.assert_close(ep(x), literal(x, bank, values), atol=1e-5, rtol=0)
        ours, theirs, other = map(milliseconds, (partial(ep, x), partial(literal, x, bank, values), partial(aim, x)))
        print(f"{queries} queries: pool-first {ours:.0f} ms, literal {theirs:.0f} ms, {theirs / ours:.1f} times")
        print(f"    aim {other:.0f} ms, {other / ours:.1f} times")


if __name__ == "__main__":
    main()
