"""The tools that are checked: theory and diagnostics of this command, statistics and edits of attention of others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ....models.hooks import capture, edit, observed
from ....models.rows import attention_rows, attention_sums
from ....nets.vit import PatchAttention
from ..circuit import diagnose
from ..errors import pieces, references
from ..network import HeadMatrices, InContextHeads, predict, scores, seen, weights
from ..problem import Problem, Regressions
from ..theory import best_step, step_prediction, two_heads
from ..training import arrays_of
from .built import HEADS, PROBLEM, KnownAnswer, circuit_of, exact, some_prompts
from .operators import gradients, operators

PROMPTS = 4000
DOUBLE = 1e-12
"""Largest error that rounding explains, relative, in float64."""
UNTRAINED = 50


def theory(seed: int, device: torch.device) -> Iterator[KnownAnswer]:
    """Closed forms against the average of prompts, in standard errors; and the circuit's limit."""
    skew = (0.3, 0.7, 1.1, 1.5, 2.0)
    for name, problem in {
        "alike": Problem(5, 20, 0.1, 1, (1.0,) * 5), "skew": Problem(5, 20, 0.3, 1, skew),
        "of two tasks": Problem(6, 20, 0.1, 2, (1.0,) * 6),
    }.items():  # fmt: skip
        for way, debiased, scalar in (
            ("gradient descent", False, True), ("debiased", True, True), ("preconditioned", False, False),
            ("preconditioned, debiased", True, False),
        ):  # fmt: skip
            best, errors = best_step(problem, problem.length, debiased=debiased, scalar=scalar), []
            for prompts in pieces(problem, problem.length, PROMPTS, seed + 1000):
                x, asked, answer = (part.numpy() for part in prompts)
                errors.append((step_prediction(x, asked, best.gamma, debiased=debiased) - answer) ** 2)
            squared = np.concatenate(errors)
            off = (squared.mean(0) - best.risk) / (squared.std(0) / np.sqrt(PROMPTS))
            yield KnownAnswer(f"risk of {way}, covariates {name}: standard errors off", float(np.abs(off).max()), 0, 4)
    known = references(PROBLEM, PROBLEM.length, PROMPTS)
    least = min(known.squared, key=lambda name: float(known.squared[name].mean[0]))
    yield KnownAnswer("no predictor has less error than ridge regression (1: yes)", float(least == "ridge"), 1)
    tokens, query, _ = (x.numpy() for x in next(pieces(PROBLEM, PROBLEM.length, 64)))
    limit = torch.from_numpy(step_prediction(tokens, query, np.ones((1, 5)), debiased=True))
    yield exact("two heads of w to 0 are debiased gradient descent",
                torch.from_numpy(two_heads(tokens, query, 1e-4, 5000.0)), limit, 1e-5)  # fmt: skip
    heads = circuit_of(((0.2, 2.0), (-0.2, -2.0)))
    said = predict(heads, Regressions(*(torch.from_numpy(x)[None] for x in (tokens, query, query[:, :1]))))
    yield exact(
        "the network computes the circuit", said[0], torch.from_numpy(two_heads(tokens, query, 0.2, 2.0)), DOUBLE
    )


def diagnostics(seed: int, device: torch.device) -> Iterator[KnownAnswer]:
    """Circuits with and without the pattern, each lacking one thing."""
    risk = float(best_step(PROBLEM, PROBLEM.length, debiased=True, scalar=True).risk[0])
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(4, 5, 5, generator=generator, dtype=torch.float64)
    noise -= (
        torch.eye(5) * torch.diagonal(noise, dim1=1, dim2=2).mean(1)[:, None, None]
    )  # its share is what is asked for
    noise *= (5**0.5 * 0.3 / noise.flatten(1).norm(dim=1))[:, None, None]

    def found(heads: HeadMatrices, mse: float = risk) -> dict[str, bool]:
        ((kq, ov),) = arrays_of(heads)
        return diagnose(kq, ov, PROBLEM).criteria(mse, risk)

    def with_noise(share: float) -> HeadMatrices:
        heads = circuit_of()
        heads.kq[0, :, :5, :5] += noise * share
        return heads

    reads = circuit_of()
    reads.ov[0, :, 0, 0] = 0.2
    cases: list[tuple[str, dict[str, bool], set[str]]] = [
        ("four heads", found(circuit_of()), set()),
        ("two heads", found(circuit_of(((0.3, 1.0), (-0.3, -1.0)))), set()),
        ("four heads and two dummies", found(circuit_of((*HEADS, (0.0, 0.01), (0.01, 0.0)))), set()),
        ("a little off the diagonal", found(with_noise(0.2)), set()),
        ("far off the diagonal", found(with_noise(2.0)), {"diagonal"}),
        ("heads of two sizes", found(circuit_of(((0.3, 1.0), (-0.1, -1.0)))), {"homogeneous"}),
        ("a head of the wrong sign", found(circuit_of((*HEADS, (0.3, -1e-3)))), {"signs_match"}),
        ("one head", found(circuit_of(((0.5, 1.5),))), {"zero_sum", "both_signs"}),
        ("two heads of one sign", found(circuit_of(((0.5, 0.8), (0.5, 0.7)))), {"zero_sum", "both_signs"}),
        ("values that read covariates", found(reads), {"last_entry_only"}),
        ("an error that is not the circuit's", found(circuit_of(), 1.2 * risk), {"error"}),
    ]  # fmt: skip
    for name, criteria, lacking in cases:
        fails = {key for key, holds in criteria.items() if not holds}
        yield KnownAnswer(f"{name}: criteria that judge it wrongly", len(fails ^ lacking), 0)
    ((kq, ov),) = arrays_of(with_noise(1.0))
    circuit = diagnose(kq, ov, PROBLEM)
    for name, value, expected in (
        ("omega", circuit.omega[:, 0], [w for w, _ in HEADS]), ("mu", circuit.mu[:, 0], [m for _, m in HEADS]),
        ("off-diagonal share", circuit.offdiag, [0.5**0.5] * 4), ("eta", circuit.eta, [sum(w * m for w, m in HEADS)]),
    ):  # fmt: skip
        yield exact(
            f"{name} of what was planted", torch.tensor(value), torch.tensor(expected, dtype=torch.float64), DOUBLE
        )
    wild = InContextHeads(PROBLEM, range(seed, seed + UNTRAINED), 4, 0.1)
    present = [all(diagnose(kq, ov, PROBLEM).criteria(risk, risk).values()) for kq, ov in arrays_of(wild.heads)]
    yield KnownAnswer(f"patterns seen in {UNTRAINED} networks that are not trained", sum(present), 0)


class KnownAttention(nn.Module):
    """The circuit as attn's own self-attention of a ViT, on tokens [B, L + 1, E] whose last one is the query.

    A head's size is a token's; queries are KQ_h z, keys and values z; the output's first entry is the prediction.
    """

    def __init__(self, heads: HeadMatrices) -> None:
        super().__init__()
        _, count, width, _ = heads.kq.shape
        self.width, self.size = width, count * width
        attention = PatchAttention(self.size, count).double().requires_grad_(requires_grad=False)
        self.layers = nn.ModuleList([nn.Sequential(OrderedDict(attn=attention))])
        stacked = torch.zeros(3, count, width, self.size, dtype=torch.float64)
        stacked[0, :, :, :width] = width**0.5 * heads.kq[0]  # attention divides by the root of a head's size
        stacked[1:, :, :, :width] = torch.eye(width)
        out = torch.zeros(self.size, self.size, dtype=torch.float64)
        out[0] = heads.ov[0, :, 0].flatten()
        for layer, weight in ((attention.qkv, stacked.flatten(0, 2)), (attention.proj, out)):
            layer.weight.copy_(weight)
            layer.bias.zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        """Predictions [B]."""
        said: Tensor = self.layers[0](nn.functional.pad(tokens, (0, self.size - self.width)))[:, -1, 0]
        return said


@torch.no_grad()
def edits(seed: int, device: torch.device) -> Iterator[KnownAnswer]:
    """``models/hooks``: what is captured of an attention, and what becomes of it where it is edited."""
    heads, prompts = circuit_of(), some_prompts(seed)
    model = KnownAttention(heads).eval()
    tokens = seen(prompts, attend_query=True)[0].transpose(1, 2)

    def expected(of: HeadMatrices, without: int = 0) -> Tensor:
        kept = prompts._replace(tokens=prompts.tokens[..., without:])
        return predict(of, kept, attend_query=True)[0, :, 0]

    yield exact("self-attention computes the circuit", model(tokens), expected(heads), DOUBLE)
    s = scores(heads.kq, prompts, attend_query=True)[0]
    with capture(model) as layers:
        model(tokens)
    (layer,) = layers
    assert layer.q is not None
    assert layer.k is not None
    yield exact("captured: queries and keys", (layer.q @ layer.k.mT * layer.scale)[:, :, -1], s, DOUBLE)
    probabilities: list[Tensor] = []
    with observed(model, lambda _, a: probabilities.append(a)):
        model(tokens)
    yield exact("observed: attention", probabilities[0][:, :, -1], weights(s, "softmax"), DOUBLE)
    for h in range(len(HEADS)):
        rest = HeadMatrices(heads.kq, heads.ov.clone())
        rest.ov[:, h] = 0
        factors = torch.ones(len(HEADS), dtype=torch.float64)
        factors[h] = 0
        with edit(model, heads={0: factors}):
            yield exact(f"without head {h}", model(tokens), expected(rest), DOUBLE)
    with edit(model, temperature=0.5):
        yield exact("temperature 1/2 is twice omega", model(tokens), expected(heads._replace(kq=2 * heads.kq)), DOUBLE)
    left = torch.arange(3, tokens.shape[1])
    bias = torch.zeros(tokens.shape[1], dtype=torch.float64)
    bias[:3] = -torch.inf
    with edit(model, bias={0: bias}):
        yield exact("three examples masked by a bias", model(tokens), expected(heads, 3), DOUBLE)
    with edit(model, keep={0: left}):
        yield exact("three examples dropped", model(tokens), expected(heads, 3), DOUBLE)
    yield exact("the model is as it was", model(tokens), expected(heads), DOUBLE)


@torch.no_grad()
def rows(seed: int, device: torch.device) -> Iterator[KnownAnswer]:
    """``models/rows``: statistics streamed in tiles, against the attention of the circuit, whose matrix is known."""
    heads, prompts = circuit_of(), some_prompts(seed)
    a = weights(scores(heads.kq, prompts), "softmax")[0][:, :, None]  # [B, H, 1, L]
    dim = PROBLEM.dim
    q = (heads.kq[0, None, :, :, :dim] @ prompts.query[0][:, None, :, None]).transpose(2, 3)
    k = prompts.tokens[0].transpose(1, 2)[:, None]
    columns = torch.arange(PROBLEM.length)[None] < 7
    found = attention_rows(q, k, scale=1.0, columns=columns, tile=(4, 16))
    assert found.mass is not None
    yield exact("entropy", found.entropy, -(a * a.log()).sum(-1), DOUBLE)
    yield exact("largest", found.largest, a.max(-1).values, DOUBLE)
    yield KnownAnswer("where it is, wrong", float((found.where != a.argmax(-1)).sum()), 0)
    yield exact("mass on the first seven", found.mass[..., 0], a[..., :7].sum(-1), DOUBLE)
    yield exact("received by each example", attention_sums(q, k, found.log_total, scale=1.0, tile=(4, 16)).received,
                a[:, :, 0], DOUBLE)  # fmt: skip


Tool = Callable[[int, torch.device], Iterator[KnownAnswer]]
TOOLS: Mapping[str, Tool] = {
    "theory": theory, "diagnostics": diagnostics, "operators": operators, "gradients": gradients, "rows": rows,
    "edits": edits,
}  # fmt: skip
"""Name -> checks. Each is given seed and device."""
