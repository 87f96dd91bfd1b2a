"""What networks of one kind came to, as metrics and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...report.sections import Row, Table
from .circuit import LIMITS, Circuit
from .errors import Errors
from .network import HeadMatrices, Kind
from .problem import Problem
from .theory import best_step, zero_risk

Floats = NDArray[np.float64]
NAMES = {
    "network": "network", "rescaled": "network, divided by this length", "zero": "always 0",
    "single_head": "best single head", "vgd": "gradient descent", "dgd": "debiased gradient descent",
    "dgd_fixed": "the same with the step of the length trained on", "preconditioned": "debiased, preconditioned",
    "ridge": "ridge regression (Bayes)",
}  # fmt: skip
"""Predictor -> what tables call it."""
WAYS = ("network", "rescaled")
"""Those that are trained."""
LOADS = 0.1
"""A head serves a task where |omega mu| is above this share of the task's largest."""


@dataclass(frozen=True, slots=True)
class Findings:
    """S networks of one kind, judged.

    Parameters
    ----------
    problem : Problem
    kind : {"softmax", "linear"}
    heads : HeadMatrices
    circuits : sequence of Circuit
    errors : Errors
    names : sequence of str
        Of the networks: seeds, or places in a file.
    """

    problem: Problem
    kind: Kind
    heads: HeadMatrices
    circuits: Sequence[Circuit]
    errors: Errors
    names: Sequence[str]

    @property
    def at(self) -> int:
        """Place of the length that is trained on."""
        return self.errors.lengths.index(self.problem.length)

    @property
    def mse(self) -> Floats:
        """Of each network at that length [S]."""
        out: Floats = self.errors.mse("network")[:, self.at]
        return out

    @property
    def risk(self) -> Floats:
        """Of the best debiased step at that length, preconditioned where covariates differ [K]."""
        return best_step(self.problem, self.problem.length, debiased=True, scalar=False).risk

    @property
    def criteria(self) -> list[dict[str, bool]]:
        """Of each network's verdict; none of linear attention, which needs no pairs of heads."""
        if self.kind == "linear":
            return []
        return [
            circuit.criteria(float(mse), float(self.risk.mean()))
            for circuit, mse in zip(self.circuits, self.mse, strict=True)
        ]

    @property
    def solved(self) -> NDArray[np.bool_]:
        """Whether a network's error on a task is within the verdict's share of its risk [S, K]."""
        out: NDArray[np.bool_] = np.abs(self.errors.means["network"][:, self.at] / self.risk - 1) < LIMITS["mse"]
        return out

    @property
    def loads(self) -> NDArray[np.bool_]:
        """Whether a head serves a task [S, H, K]."""
        size = np.abs([circuit.omega * circuit.mu for circuit in self.circuits])
        out: NDArray[np.bool_] = size > LOADS * size.max(1, keepdims=True)
        return out

    def metrics(self) -> dict[str, float]:
        """Means over the networks; spreads are standard deviations between them."""
        found, at, circuits = self.errors, self.at, self.circuits
        theory = best_step(self.problem, self.problem.length, debiased=True, scalar=True)
        out = {
            "mse": float(self.mse.mean()), "mse_spread": spread(self.mse),
            "mse_stderr": float(found.stderr("network")[:, at].mean()), "risk_dgd": float(theory.risk.mean()),
            "excess": float(self.mse.mean() / self.risk.mean() - 1),
            **{f"mse_{name}": float(found.mse(name)[0, at]) for name in found.means if name not in WAYS},
            "distance": float(found.distance[:, at].mean()),
            "eta": float(np.mean([circuit.eta for circuit in circuits])),
            "eta_spread": spread([circuit.eta.mean() for circuit in circuits]),
            "eta_dgd": float(np.mean([row[row > 0].mean() for row in theory.gamma])),
            "zero_sum": float(np.mean([circuit.zero_sum for circuit in circuits])),
            "homogeneity": float(np.mean([circuit.homogeneity for circuit in circuits])),
            "offdiag": float(np.mean([circuit.offdiag for circuit in circuits])),
            "gamma_distance": float(np.mean([circuit.distance[0] for circuit in circuits])),
            "gamma_distance_debiased": float(np.mean([circuit.distance[1] for circuit in circuits])),
        }  # fmt: skip
        if self.criteria:
            out["pattern"] = float(sum(all(row.values()) for row in self.criteria))
        if self.problem.tasks > 1:
            out["tasks_solved"] = float(self.solved.sum(1).mean())
            out["heads_shared"] = float((self.loads.sum(2) > 1).sum(1).mean())
        return out | {"seeds": float(len(circuits))}

    def tables(self) -> tuple[Table, ...]:
        """Errors by length, verdicts, heads, and, where there are several, tasks."""
        verdicts = [
            {
                "seed": name, "mse": float(mse), "pattern": all(row.values()), **row, "eta": float(circuit.eta.mean()),
                "zero_sum_value": circuit.zero_sum, "homogeneity": circuit.homogeneity,
            }
            for name, mse, row, circuit in zip(self.names, self.mse, self.criteria, self.circuits, strict=False)
        ]  # fmt: skip
        made = (
            error_table(self.errors),
            Table("verdicts", verdicts, title="Is the pattern there?"),
            Table("heads", self.head_rows(), title="Heads"),
            Table("tasks", self.task_rows() if self.problem.tasks > 1 else [], title="Tasks"),
        )
        return tuple(table for table in made if table.content)

    def head_rows(self) -> list[Row]:
        """One row per network and head; of several tasks the numbers of each, by its number from 1."""
        rows: list[Row] = []
        for name, circuit in zip(self.names, self.circuits, strict=True):
            for h, sort in enumerate(circuit.kinds):
                rows.append({
                    "seed": name, "head": h, "sort": sort, **numbered("omega", circuit.omega[h]),
                    **numbered("mu", circuit.mu[h]), "offdiag_ratio": float(circuit.offdiag[h]),
                    "from_gamma": float(circuit.from_gamma[h]), "kq_lastrow": float(circuit.last_row[h]),
                    "ov_rest": float(circuit.rest[h]),
                    **({"ov_crossed": float(circuit.crossed[h])} if self.problem.tasks > 1 else {}),
                })  # fmt: skip
        return rows

    def task_rows(self) -> list[Row]:
        """One row per task: errors against its own theory, and how many heads serve it."""
        means, at = self.errors.means, self.at
        risk, zero = self.risk, zero_risk(self.problem)
        return [
            {
                "task": k + 1, "covariates": len(part), "mse": float(means["network"][:, at, k].mean()),
                "mse_spread": spread(means["network"][:, at, k]), "risk_dgd": float(risk[k]),
                "mse_ridge": float(means["ridge"][0, at, k]), "risk_zero": float(zero[k]),
                "solved": int(self.solved[:, k].sum()), "seeds": len(self.circuits),
                "heads": float(self.loads[:, :, k].sum(1).mean()),
                "heads_shared": float((self.loads[:, :, k] & (self.loads.sum(2) > 1)).sum(1).mean()),
            }
            for k, part in enumerate(self.problem.parts)
        ]  # fmt: skip

    def arrays(self) -> dict[str, NDArray[Any]]:
        """KQ and OV [S, H, ...], omega and mu [S, H, K], lengths [N]; mse_* and stderr_* [S or 1, N] of predictors."""
        kq, ov = (x.detach().cpu().numpy() for x in self.heads)
        return {
            "KQ": kq, "OV": ov, "omega": np.stack([circuit.omega for circuit in self.circuits]),
            "mu": np.stack([circuit.mu for circuit in self.circuits]), "lengths": np.array(self.errors.lengths),
            **{f"mse_{name}": self.errors.mse(name) for name in self.errors.means},
            **{f"stderr_{name}": self.errors.stderr(name) for name in self.errors.means},
        }  # fmt: skip


def error_table(errors: Errors) -> Table:
    """Every predictor at every length: a mean over networks, the spread between them, and the prompts' own error."""
    rows: list[Row] = []
    short: list[Row] = []
    for name, text in NAMES.items():
        if name not in errors.means:
            continue
        mse, stderr = errors.mse(name), errors.stderr(name)
        cells = {"predictor": text}
        for place, length in enumerate(errors.lengths):
            column = mse[:, place]
            rows.append(
                {"predictor": text, "length": length, "mse": float(column.mean()), "spread": spread(column),
                 "stderr": float(stderr[:, place].mean())}
            )  # fmt: skip
            cells[f"at {length}"] = f"{column.mean():.4g}" + (f" ± {spread(column):.2g}" if len(column) > 1 else "")
        short.append(cells)
    return Table("errors", rows, short=short, title="Mean squared error, by examples in the prompt")


def spread(values: Sequence[float] | Floats) -> float:
    """Standard deviation between networks; NaN of one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def numbered(name: str, values: Floats) -> Mapping[str, float]:
    """``{"omega": ...}``, or ``omega_1, omega_2, ...`` of several tasks."""
    if len(values) == 1:
        return {name: float(values[0])}
    return {f"{name}_{k}": float(value) for k, value in enumerate(values, 1)}
