"""What is measured of one encoder at one temperature, and whether an untrained encoder would give the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...report.sections import Facts, Section, Table, Trust, TrustLine
from ...retrieve.collapse import Collapse, Row, length_collapse
from ...retrieve.encoders.text import TextEncoder
from ..trust import UNTRAINED, line, randomised, weights_line
from .passkey import passkey

SAMPLE = 100
"""Texts on which the encoder is compared with untrained ones."""
LOOKED_AT = 5
"""Of them, in each bucket, whose layers are measured."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Tables of one temperature.

    Parameters
    ----------
    temperature : float
    collapse : Collapse
    passkey : list of Row
        Empty: not tested.
    trust : tuple of TrustLine
    """

    temperature: float
    collapse: Collapse
    passkey: list[Row]
    trust: tuple[TrustLine, ...]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What the figure is made of; axis 0 is the temperature.

        Of T temperatures, B buckets, L layers, C cuts, K lengths: ``temperature`` [T]; ``bucket`` [B, 2], tokens (low
        exclusive, high inclusive); ``pair_similarity``, ``centroid_norm`` [T, B]; ``cross_similarity`` [T, B, B];
        ``hf_ratio`` [T, B, L + 1], from the embeddings on; ``sigma`` [T, B, L]; ``cut`` [C] and ``cut_similarity``
        [T, C]; ``passkey_tokens`` [K] and ``found``, ``found_among_all``, ``shorter_won`` [T, K].
        """
        found, buckets = self.collapse, self.collapse.buckets
        layers = hf_map(found), hf_map(found, "sigma")[:, 1:]
        values = {
            "pair_similarity": column(buckets, "pair_similarity"), "centroid_norm": column(buckets, "centroid_norm"),
            "cross_similarity": np.array([[float(row[str(name["bucket"])]) for name in buckets] for row in found.cross]),
            "hf_ratio": layers[0], "sigma": layers[1],
            "cut_similarity": column(found.same_text, "pair_similarity"), "found": column(self.passkey, "found"),
            "found_among_all": column(self.passkey, "found_among_all"),
            "shorter_won": column(self.passkey, "shorter_won"),
        }  # fmt: skip
        return {
            "temperature": np.array([self.temperature]),
            "bucket": np.array([[row["low"], row["high"]] for row in buckets], np.int64),
            "cut": column(found.same_text, "tokens").astype(np.int64),
            "passkey_tokens": column(self.passkey, "tokens").astype(np.int64),
            **{name: value[None] for name, value in values.items()},
        }

    @property
    def metrics(self) -> dict[str, float]:
        """The summary, and the pass key test over all lengths."""
        summary = {name: float(value) for name, value in self.collapse.summary.items()}
        means = {name: float(column(self.passkey, name).mean()) for name in FOUND} if self.passkey else {}
        return summary | means

    def sections(self) -> tuple[Section, ...]:
        """The tables and the trust lines, as a report has them."""
        found = self.collapse
        tables = (
            Table("buckets", found.buckets, title="By length"),
            Table("cross", found.cross, title="Mean cosine between the buckets", detail=True),
            Table("layers", found.layers, title="Layer by layer", detail=True),
            Table("same_text", found.same_text, title="The same texts cut to several lengths"),
            Table("passkey", self.passkey, title="Pass key test"),
        )
        meaning = {"note": "crowding is a property of vectors; it does not say that a search is worse"}
        return (*(table for table in tables if table.content), Trust("trust", self.trust), Facts("reading", meaning))


FOUND = ("found", "found_among_all", "shorter_won")


def column(rows: Sequence[Row], name: str) -> NDArray[np.float64]:
    """A column of a table as numbers."""
    return np.array([float(row[name]) for row in rows])


def hf_map(found: Collapse, name: str = "hf_ratio") -> NDArray[np.float64]:
    """A column of the layers' table as [buckets, layers + 1]; NaN where a layer has none."""
    names = [row["bucket"] for row in found.buckets]
    layers = 1 + max((int(row["layer"]) for row in found.layers), default=-1)
    out = np.full((len(names), layers), np.nan)
    for row in found.layers:
        out[names.index(row["bucket"]), int(row["layer"])] = float(row.get(name, np.nan))
    return out


def measure(
    encoder: TextEncoder, texts: Sequence[str], *, buckets: int | Sequence[int], measured: int, lengths: Sequence[int],
    rounds: int, seed: int, step: Callable[[int, int], None] = lambda done, total: None,
) -> Measured:  # fmt: skip
    """Length collapse, the pass key test, and both against untrained encoders.

    Parameters
    ----------
    encoder : TextEncoder
        At its temperature.
    texts : sequence of str
    buckets, measured, seed
        See ``length_collapse``.
    lengths, rounds
        See ``passkey``; no lengths: no test.
    step : callable
        Progress.

    Raises
    ------
    UsageError
        See ``length_collapse`` and ``passkey``.
    """
    total = 3 + UNTRAINED
    found = length_collapse(encoder, texts, buckets=buckets, measured=measured, seed=seed)
    step(1, total)
    keys = passkey(encoder, texts, lengths, rounds=rounds, seed=seed) if lengths else []
    step(2, total)
    # the same small sample for the encoder and for its untrained twins
    rng = np.random.default_rng(seed)
    some = [texts[i] for i in sorted(rng.permutation(len(texts))[:SAMPLE].tolist())]

    def small() -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        part = length_collapse(encoder, some, buckets=buckets, measured=LOOKED_AT, cuts=(), seed=seed)
        share = passkey(encoder, texts, lengths, rounds=1, seed=seed) if lengths else []
        return hf_map(part), np.array([row["pair_similarity"] for row in part.buckets]), mean_found(share)

    own, twins = small(), []
    step(3, total)
    for number in range(UNTRAINED):
        with randomised(encoder.model, seed + 1 + number):
            twins.append(small())
        step(4 + number, total)
    lines = [
        named("layers", weights_line(own[0], [twin[0] for twin in twins])),
        named("similarity by length", weights_line(own[1], [twin[1] for twin in twins])),
    ]
    if lengths:
        lines.append(
            line(
                "pass key", own[2], [twin[2] for twin in twins],
                f"share found among documents of one length; {UNTRAINED} untrained encoders find what chance, or "
                "counting words, finds",
            )
        )  # fmt: skip
    return Measured(encoder.fingerprint.temperature, found, keys, tuple(lines))


def mean_found(rows: Sequence[Row]) -> float:
    """Mean share found over the lengths; NaN of no test."""
    return float(column(rows, "found").mean()) if rows else float("nan")


def named(what: str, trust: TrustLine) -> TrustLine:
    """The line of one of several maps."""
    from dataclasses import replace

    return replace(trust, check=f"{trust.check}: {what}")
