"""In-context regression: the network against loops, seeds apart, and what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attn.core.probe.icl.circuit import diagnose
from attn.core.probe.icl.network import HeadMatrices, InContextHeads, Kind, predict
from attn.core.probe.icl.problem import Problem, Regressions, draw, generator_of, training_batch
from attn.core.probe.icl.theory import best_step, ridge_coefficients, step_prediction, zero_risk
from attn.core.probe.icl.training import InContextRecipe, plan_of

PLAIN = Problem(3, 7, 0.1, 1, (1.0,) * 3)
SHARED = Problem(5, 6, 0.2, 2, (0.5, 1.0, 1.5, 2.0, 2.5))


def prompts_of(problem: Problem, networks: int = 1, count: int = 4) -> Regressions:
    drawn = draw(problem, problem.length, count, generator_of(1), torch.float64)
    return Regressions(*(x[None].expand(networks, *x.shape) for x in drawn))


def in_loops(heads: HeadMatrices, prompts: Regressions, kind: Kind, over: int, query: bool) -> torch.Tensor:
    """Section 3.2, one sum at a time."""
    tokens, asked, answer = prompts
    out = torch.zeros_like(answer)
    for s, b in np.ndindex(*asked.shape[:2]):
        z = tokens[s, b]
        z_q = torch.cat((asked[s, b], torch.zeros(answer.shape[-1], dtype=z.dtype)))
        if query:
            z = torch.cat((z, z_q[:, None]), 1)
        for kq, ov in zip(heads.kq[s], heads.ov[s], strict=True):
            scores = torch.stack([z[:, example] @ kq @ z_q for example in range(z.shape[1])])
            a = scores.exp() / scores.exp().sum() if kind == "softmax" else scores / over
            out[s, b] += ov @ z @ a
    return out


@pytest.mark.parametrize("problem", [PLAIN, SHARED])
@pytest.mark.parametrize(("kind", "query"), [("softmax", False), ("softmax", True), ("linear", False)])
def test_network_is_its_equations(problem: Problem, kind: Kind, query: bool) -> None:
    network = InContextHeads(problem, range(2), 3, 0.5, kind=kind).double()
    prompts = prompts_of(problem, 2)
    found = predict(network.heads, prompts, kind, over=11, attend_query=query)
    torch.testing.assert_close(found, in_loops(network.heads, prompts, kind, 11, query))


def test_factors_and_pairs() -> None:
    for factored in (False, True):
        kq, ov = InContextHeads(PLAIN, range(2), 5, 0.1, factored=factored, paired=True).heads
        for matrices in (kq, ov):
            torch.testing.assert_close(matrices[:, 1:5:2], -matrices[:, 0:4:2])
            assert (matrices[:, 4] != 0).all()
    key, query, value, out = (network := InContextHeads(PLAIN, range(1), 2, 0.1, factored=True)).parts
    torch.testing.assert_close(network.heads.kq[0, 1], key[0, 1].T @ query[0, 1])
    torch.testing.assert_close(network.heads.ov[0, 1], out[0, 1] @ value[0, 1])


def test_label_columns_get_no_gradient() -> None:
    network = InContextHeads(PLAIN, range(1), 2, 0.1)
    network(training_batch(PLAIN, range(1), 0, 8)).sum().backward()
    gradient = network.parts[0].grad
    assert gradient is not None
    assert (gradient[..., -1] == 0).all()
    assert (gradient[..., :-1] != 0).all()


def test_a_seed_is_the_same_whatever_runs_beside_it() -> None:
    alone, beside = training_batch(PLAIN, range(1, 2), 5, 8), training_batch(PLAIN, range(3), 5, 8)
    for one, many in zip(alone, beside, strict=True):
        assert torch.equal(one[0], many[1])
        assert not torch.equal(one[0], many[0])
    ends = []
    for seeds in (range(1, 2), range(3)):
        network = InContextHeads(PLAIN, seeds, 2, 0.1)
        recipe, plan = InContextRecipe(network, seeds, 8), plan_of(20, 1e-2, len(seeds), 0)
        optimizer = torch.optim.AdamW(network.parameters(), plan.learning_rate, weight_decay=0, eps=plan.eps)
        for step in range(20):
            optimizer.zero_grad()
            recipe.loss(step).backward()
            optimizer.step()
        ends.append(network.heads.kq[list(seeds).index(1)])
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-5)


def test_what_is_drawn() -> None:
    drawn = draw(SHARED, 6, 4000, generator_of(3), torch.float64)
    x, y = drawn.tokens[:, :5], drawn.tokens[:, 5:]
    np.testing.assert_allclose(x.var((0, 2)), SHARED.eigenvalues, rtol=0.06)
    np.testing.assert_allclose(y.var((0, 2)), zero_risk(SHARED), rtol=0.1)
    np.testing.assert_allclose(drawn.answer.var(0), zero_risk(SHARED), rtol=0.1)
    assert [part.tolist() for part in SHARED.parts] == [[0, 1, 2], [3, 4]]
    assert ((SHARED.prior > 0).sum(1) == [3, 2]).all()


def test_best_steps_are_best() -> None:
    """No step nearby has less error on prompts, where errors are compared on the same ones."""
    tokens, query, answer = (x.numpy() for x in draw(SHARED, 6, 20_000, generator_of(4), torch.float64))
    for debiased in (False, True):
        best = best_step(SHARED, 6, debiased=debiased, scalar=False)
        for factor in (0.7, 1.3):
            for some in (best.gamma * factor, best.gamma * np.where(np.arange(5) % 2, factor, 1)):
                errors = [
                    ((step_prediction(tokens, query, gamma, debiased=debiased) - answer) ** 2).mean()
                    for gamma in (best.gamma, some)
                ]
                assert errors[0] < errors[1]


def test_ridge_without_noise_is_exact() -> None:
    for length, solved in ((8, True), (2, False)):
        problem = Problem(3, length, 0.0, 1, (1.0,) * 3)
        tokens, query, answer = (x.numpy() for x in draw(problem, length, 50, generator_of(5), torch.float64))
        said = (ridge_coefficients(tokens, problem) * query[:, None]).sum(2)
        assert np.isfinite(said).all()
        assert np.allclose(said, answer) == solved


def test_circuit_of_two_tasks() -> None:
    """Heads 0 and 1 serve task 1, heads 2 and 3 both."""
    kq, ov = np.zeros((4, 7, 7)), np.zeros((4, 2, 7))
    for h, (w, m, part) in enumerate([(0.2, 1, [0]), (-0.2, -1, [0]), (0.2, 1, [0, 1]), (-0.2, -1, [0, 1])]):
        for k in part:
            kq[h, SHARED.parts[k], SHARED.parts[k]] = w
            ov[h, k, 5 + k] = m
    flat = Problem(5, 6, 0.2, 2, (1.0,) * 5)
    circuit = diagnose(kq, ov, flat)
    assert circuit.kinds == ["+.", "-.", "++", "--"]
    np.testing.assert_allclose(circuit.eta, [0.8, 0.4])
    assert circuit.zero_sum == 0
    assert circuit.from_gamma.max() < 1e-12
    assert circuit.crossed.max() == 0
    assert all(circuit.criteria(1.0, 1.0).values())
