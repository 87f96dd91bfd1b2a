"""What the matrices of heads have become. Specification: methods/icl-regression.md, sections 3.3, 3.5 and 3.7."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .problem import Problem
from .theory import best_step

Floats = NDArray[np.float64]
DUMMY = 0.1
"""A head counts whose |omega| is above this share of the largest."""
LIMITS = {"offdiag": 0.3, "homogeneity": 0.15, "zero_sum": 0.05, "ov_rest": 0.05, "mse": 0.05}
"""Of the verdict, section 3.5: provisional there, set after one seed of four heads."""


@dataclass(frozen=True, slots=True)
class Circuit:
    """Diagnostics of one network; A_h is the block of covariates of KQ_h, without the columns that get no gradient.

    Parameters
    ----------
    omega : ndarray, shape (H, K)
        Mean of A_h's diagonal over the covariates of each task.
    mu : ndarray, shape (H, K)
        OV_h from a task's label to its own prediction.
    offdiag : ndarray, shape (H,)
        |A_h - omega_h I| / |A_h|, Frobenius.
    from_gamma : ndarray, shape (H,)
        The same to the best multiple of Gamma, the best debiased step's, a multiple for each task: isotropic, of one
        task, it is ``offdiag``.
    last_row : ndarray, shape (H,)
        Largest |KQ_h| from covariates of the query to labels of examples.
    rest : ndarray, shape (H,)
        Largest |OV_h| from covariates to a prediction.
    crossed : ndarray, shape (H,)
        Largest |OV_h| from one task's label to another's prediction.
    effective : ndarray, shape (K, d, d)
        sum_h mu_h A_h: what the heads are to first order, compared with Gamma.
    eta : ndarray, shape (K,)
        sum_h mu_h omega_h.
    distance : ndarray, shape (2,)
        |effective - Gamma| / |Gamma| with Gamma of plain and of debiased steps.
    """

    omega: Floats
    mu: Floats
    offdiag: Floats
    from_gamma: Floats
    last_row: Floats
    rest: Floats
    crossed: Floats
    effective: Floats
    eta: Floats
    distance: Floats

    @property
    def counts(self) -> NDArray[np.bool_]:
        """Whether a head is no dummy to a task [H, K]."""
        size = np.abs(self.omega)
        out: NDArray[np.bool_] = size > DUMMY * size.max(0)
        return out

    @property
    def kinds(self) -> list[str]:
        """``+``, ``-`` or ``dummy`` of every head; of several tasks a sign each, ``.`` where a head is no part."""
        signs = np.where(self.counts, np.where(self.omega > 0, "+", "-"), ".")
        return ["dummy" if set(row) == {"."} else "".join(row) for row in signs.tolist()]

    @property
    def zero_sum(self) -> float:
        """|sum mu| / sum |mu|; of several tasks the largest."""
        total = np.abs(self.mu).sum(0)
        return float((np.abs(self.mu.sum(0)) / np.where(total > 0, total, np.nan)).max())

    @property
    def homogeneity(self) -> float:
        """Deviation of |omega| over its mean, of the heads that count; of several tasks the largest."""
        return max(
            float(values.std() / values.mean()) if len(values) else float("nan")
            for values in (np.abs(self.omega[kept, k]) for k, kept in enumerate(self.counts.T))
        )

    @property
    def sign_match(self) -> float:
        """Share of the heads that count in which omega and mu have one sign."""
        return float((self.omega * self.mu > 0)[self.counts].mean()) if self.counts.any() else float("nan")

    def criteria(self, mse: float, risk: float) -> dict[str, bool]:
        """The parts of the verdict; ``risk`` is that of the debiased step at its best."""
        counted = self.counts.any(1)
        signs = [set(np.sign(self.omega[kept, k])) for k, kept in enumerate(self.counts.T)]
        return {
            "diagonal": bool(counted.any() and (self.from_gamma[counted] < LIMITS["offdiag"]).all()),
            "homogeneous": self.homogeneity < LIMITS["homogeneity"],
            "signs_match": self.sign_match == 1,
            "zero_sum": self.zero_sum < LIMITS["zero_sum"],
            "last_entry_only": bool(self.rest.max() < LIMITS["ov_rest"] * np.abs(self.mu).max()),
            "both_signs": all(found >= {-1.0, 1.0} for found in signs),
            "error": abs(mse / risk - 1) < LIMITS["mse"],
        }


def diagnose(kq: Floats, ov: Floats, problem: Problem) -> Circuit:
    """Of one network: ``kq`` [H, d + K, d + K] and ``ov`` [H, K, d + K]."""
    kq, ov = np.asarray(kq, np.float64), np.asarray(ov, np.float64)
    dim, tasks = problem.dim, problem.tasks
    a, labels = kq[:, :dim, :dim], ov[:, :, dim:]
    diagonal = np.diagonal(a, axis1=1, axis2=2)
    omega = np.stack([diagonal[:, part].mean(1) for part in problem.parts], 1)
    mu = np.diagonal(labels, axis1=1, axis2=2)
    plain, debiased = (best_step(problem, problem.length, debiased=way, scalar=False).gamma for way in (False, True))
    effective = np.einsum("hk,hij->kij", mu, a)
    wanted = [gamma[:, :, None] * np.eye(dim) for gamma in (plain, debiased)]  # [K, d, d] each
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return Circuit(
            omega, mu, away(a, np.eye(dim)[None]), away(a, wanted[1]), np.abs(kq[:, dim:, :dim]).max((1, 2)),
            np.abs(ov[:, :, :dim]).max((1, 2)), np.abs(labels * (1 - np.eye(tasks))).max((1, 2)), effective,
            (omega * mu).sum(0),
            np.array([np.linalg.norm(effective - gamma) / np.linalg.norm(gamma) for gamma in wanted]),
        )  # fmt: skip


def away(a: Floats, shapes: Floats) -> Floats:
    """|A_h - sum_k c_k B_k| / |A_h| with the best c_k [H], Frobenius: how much of A_h [H, d, d] is of no shape B_k.

    ``shapes`` [K, d, d] have no entry in common. Of the one shape I, c is the mean of the diagonal.
    """
    shares = np.einsum("hij,kij->hk", a, shapes) / (shapes**2).sum((1, 2))
    rest = a - np.einsum("hk,kij->hij", shares, shapes)
    out: Floats = np.linalg.norm(rest, axis=(1, 2)) / np.linalg.norm(a, axis=(1, 2))
    return out
