"""In-context regression against vectors of equations written out: methods/icl-regression.md, section 10."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from attn.core.probe.icl.circuit import diagnose
from attn.core.probe.icl.errors import measured
from attn.core.probe.icl.network import HeadMatrices, predict, scores, weights
from attn.core.probe.icl.problem import Problem, Regressions
from attn.core.probe.icl.theory import best_step, ridge_coefficients, ridge_prediction, step_prediction, two_heads

VECTORS = Path(__file__).parent / "vectors" / "icl-regression"
Arrays = dict[str, NDArray[Any]]


def load(name: str) -> Arrays:
    with np.load(VECTORS / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def problem_of(vectors: Arrays, eigenvalues: tuple[float, ...] | None = None) -> Problem:
    dim = int(vectors["d"])
    return Problem(dim, int(vectors["L"]), float(vectors["noise_var"]), 1, eigenvalues or (1.0,) * dim)


@pytest.fixture(scope="module")
def forward() -> Arrays:
    return load("forward")


@pytest.fixture(scope="module")
def prompts(forward: Arrays) -> Regressions:
    tokens = np.concatenate((forward["X"], forward["y"][..., None]), 2).transpose(0, 2, 1)
    return Regressions(*(torch.from_numpy(x[None]) for x in (tokens, forward["xq"], forward["yq"][:, None])))


def matrices(vectors: Arrays) -> HeadMatrices:
    kq, ov = (torch.from_numpy(vectors[name])[None] for name in ("KQ", "OV"))
    return HeadMatrices(kq, ov[:, :, -1:])


def close(found: Any, expected: NDArray[Any], tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(np.asarray(found).reshape(expected.shape), expected, rtol=tolerance, atol=tolerance)


def test_attention(forward: Arrays, prompts: Regressions) -> None:
    heads = matrices(forward)
    found = scores(heads.kq, prompts)
    close(found, forward["scores"])
    close(weights(found, "softmax"), forward["attention"])
    close(predict(heads, prompts), forward["pred"])
    close(predict(heads, prompts, attend_query=True), forward["pred_with_query_token"])
    close(predict(heads, prompts, "linear"), forward["pred_linear"])


def test_theory(forward: Arrays, prompts: Regressions) -> None:
    problem, length = problem_of(forward), int(forward["L"])
    tokens, query = prompts.tokens[0].numpy(), prompts.query[0].numpy()
    for name, debiased in (("vgd", False), ("dgd", True)):
        best = best_step(problem, length, debiased=debiased, scalar=True)
        close(best.gamma, np.full(problem.dim, forward[f"eta_{name}"]))
        close(best.risk, forward[f"risk_{name}"])
        close(step_prediction(tokens, query, best.gamma, debiased=debiased), forward[f"pred_{name}"])
    close(ridge_coefficients(tokens, problem), forward["ridge_beta"])
    close(ridge_prediction(tokens, query, problem), forward["pred_ridge"])
    close(two_heads(tokens, query, 0.05, float(forward["eta_dgd"]) / 0.1), forward["pred_two_head"])
    other = problem_of(forward, tuple(forward["cov_eigs"].tolist()))
    close(best_step(other, length, debiased=False, scalar=False).gamma, forward["precond"])


def test_diagnostics(forward: Arrays) -> None:
    heads = matrices(forward)
    found = diagnose(heads.kq[0].numpy(), heads.ov[0].numpy(), problem_of(forward))
    for value, name in (
        (found.omega, "omega"), (found.offdiag, "offdiag_ratio"), (found.last_row, "kq_lastrow"), (found.mu, "mu"),
        (found.rest, "ov_rest"), (found.zero_sum, "zero_sum"),
    ):  # fmt: skip
        close(value, forward[name], 1e-5)
    assert not all(found.criteria(0.4, 0.4).values())


def test_trained_weights_show_the_pattern() -> None:
    vectors = load("trained")
    problem, heads = problem_of(vectors), matrices(vectors)
    found = diagnose(heads.kq[0].numpy(), heads.ov[0].numpy(), problem)
    for value, name in ((found.omega, "omega"), (found.mu, "mu"), (found.zero_sum, "zero_sum")):
        close(value, vectors[name], 1e-5)
    lengths = vectors["lengths"].tolist()
    errors = measured(problem, lengths, 4000, heads, "softmax")
    ours, own = errors.mse("network")[0], errors.stderr("network")[0]
    assert (np.abs(ours - vectors["mse"]) < 4 * np.hypot(own, vectors["mse_stderr"])).all()
    for name in ("ridge", "vgd", "dgd"):
        difference = errors.mse(name)[0] - vectors[f"mse_{name}"]
        assert (np.abs(difference) < 4 * np.hypot(errors.stderr(name)[0], vectors["mse_stderr"])).all()
    risk = float(best_step(problem, problem.length, debiased=True, scalar=True).risk[0])
    assert all(found.criteria(float(ours[lengths.index(problem.length)]), risk).values())
