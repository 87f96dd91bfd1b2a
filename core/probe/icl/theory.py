"""What theory says of predictors that are one step of gradient descent, and of the best there can be.

Specification: methods/icl-regression.md, sections 3.4 and 3.7. All of them are ``(1/L) sum_l y_l x_l^T Gamma x_q`` with
a diagonal Gamma, of x_l, or debiased, of x_l - xbar. The specification states the optimum for isotropic covariates and
the matrix for others; what is here is the same for any variances lam_i, where E[beta beta^T] = I / d (D below):

    plain     E[w] = lam / d,             E[w^2] = (1 + 1/L) lam^2 / d + (sum lam / d + s2) lam / L
    debiased  E[w] = (1 - 1/L) lam / d,   E[w^2] = (1 - 1/L) (lam^2 / d + (sum lam / d + s2) lam / L)

for w = (1/L) sum_l y_l x_l (Wishart moments), and the risk of Gamma is
``s2 + sum_i lam_i (g_i^2 E[w_i^2] - 2 g_i E[w_i beta_i] + 1/d)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .problem import Problem

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best step of one kind, for every task.

    Parameters
    ----------
    gamma : ndarray, shape (K, d)
        Diagonal of Gamma; zeros where a covariate is no part of the task.
    risk : ndarray, shape (K,)
        Expected squared error against the noisy label.
    """

    gamma: Floats
    risk: Floats


def best_step(problem: Problem, length: int, *, debiased: bool, scalar: bool) -> Optimum:
    """The Gamma of least risk at a length: eta I with ``scalar`` (VGD, DGD), else any diagonal (preconditioned)."""
    gamma, risk = np.zeros((problem.tasks, problem.dim)), np.zeros(problem.tasks)
    for k, part in enumerate(problem.parts):
        lam, d, keep = np.asarray(problem.eigenvalues)[part], len(part), 1 - 1 / length if debiased else 1.0
        signal = lam.sum() / d
        cross = keep * lam / d  # E[w_i beta_i]
        square = keep * ((1 + (0 if debiased else 1 / length)) * lam**2 / d + (signal + problem.noise) * lam / length)
        g = np.full(d, (lam @ cross) / (lam @ square)) if scalar else cross / square
        gamma[k, part] = g
        risk[k] = problem.noise + signal + lam @ (g**2 * square - 2 * g * cross)
    return Optimum(gamma, risk)


def zero_risk(problem: Problem) -> Floats:
    """Of always saying 0: the variance of the labels [K]."""
    return np.array([np.asarray(problem.eigenvalues)[part].mean() + problem.noise for part in problem.parts])


def step_prediction(tokens: Floats, query: Floats, gamma: Floats, *, debiased: bool) -> Floats:
    """``(1/L) sum_l y_l x_l^T Gamma x_q`` [B, K], or that of x_l - xbar, of tokens [B, d + K, L] and query [B, d]."""
    dim, length = query.shape[1], tokens.shape[2]
    x, y = tokens[:, :dim], tokens[:, dim:]
    if debiased:
        x = x - x.mean(2, keepdims=True)
    w = y @ x.transpose(0, 2, 1) / length
    out: Floats = (w * gamma * query[:, None]).sum(2)
    return out


def ridge_coefficients(tokens: Floats, problem: Problem) -> Floats:
    """(X^T X + |S_k| s2 I)^-1 X^T y of every task [B, K, d]: the mean of the posterior; without noise the shortest."""
    out = np.zeros((len(tokens), problem.tasks, problem.dim))
    for k, part in enumerate(problem.parts):
        x, y = tokens[:, part], tokens[:, problem.dim + k]
        if problem.noise:
            gram = x @ x.transpose(0, 2, 1) + len(part) * problem.noise * np.eye(len(part))
            out[:, k, part] = np.linalg.solve(gram, x @ y[..., None])[..., 0]
        else:
            out[:, k, part] = (y[:, None] @ np.linalg.pinv(x))[:, 0]
    return out


def ridge_prediction(tokens: Floats, query: Floats, problem: Problem) -> Floats:
    """Of the Bayes-optimal ridge regression [B, K]."""
    out: Floats = (ridge_coefficients(tokens, problem) * query[:, None]).sum(2)
    return out


def head_prediction(tokens: Floats, query: Floats, w: float) -> Floats:
    """y^T softmax(w X x_q) of a head without noise in its matrices [B, K]."""
    dim = query.shape[1]
    s = w * (query[:, None] @ tokens[:, :dim])[:, 0]
    a = np.exp(s - s.max(1, keepdims=True))
    out: Floats = (tokens[:, dim:] @ (a / a.sum(1, keepdims=True))[..., None])[..., 0]
    return out


def two_heads(tokens: Floats, query: Floats, w: float, m: float) -> Floats:
    """m (y^T softmax(w X x_q) - y^T softmax(-w X x_q)): the circuit, which is DGD of eta = 2 m w as w goes to 0."""
    return m * (head_prediction(tokens, query, w) - head_prediction(tokens, query, -w))


def best_head(tokens: Floats, query: Floats, answer: Floats) -> tuple[float, float]:
    """w and m of the single head m y^T softmax(w X x_q) with the least squared error on these prompts."""
    from scipy.optimize import minimize_scalar

    def fitted(w: float) -> tuple[float, float]:
        said = head_prediction(tokens, query, w)
        m = float((said * answer).sum() / (said**2).sum())
        return m, float(((m * said - answer) ** 2).mean())

    scale = 1 / float(np.sqrt((query**2).mean()))  # w is in units of 1 / variance of a covariate
    w = float(minimize_scalar(lambda w: fitted(w)[1], bounds=(1e-3 * scale**2, 3 * scale**2), method="bounded").x)
    return w, fitted(w)[0]
