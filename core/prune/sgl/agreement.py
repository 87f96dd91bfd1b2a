"""How well one layer, and a guide, agree with the attention of the whole large model (methods/sgl.md, section 6)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from ...report.sections import Table
from ..measure.fidelity import rank_agreement
from ..methods.base import largest
from .guide import GuideRun

SHARE = 0.25
"""Of the tokens with the most attention, which are compared with those of the whole model."""


@dataclass(slots=True)
class LayerAgreement:
    """Means over samples.

    Parameters
    ----------
    ranks : dict, source -> list of float
        Spearman's correlation with the large model's attention, summed over all layers, heads and rows. Sources:
        ``"guide"``, ``"guide layer 0"``, ..., ``"large layer 0"``, ...
    shared : dict, source -> list of float
        Share of the best quarter of the tokens that are the same.
    """

    ranks: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    shared: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, guide: GuideRun, large: GuideRun) -> None:
        """One prompt: the guide's run, and the large model's, with all of its tokens."""
        whole = large.received.importance()[0]
        self._compare("guide", guide.received.importance()[0], whole)
        for name, run in (("guide", guide), ("large", large)):
            by_layer = run.received.prefill[0] + run.received.decode[0]
            for layer, importance in enumerate(by_layer):
                self._compare(f"{name} layer {layer}", importance, whole)

    def _compare(self, source: str, importance: Tensor, whole: Tensor) -> None:
        self.ranks[source].append(rank_agreement(importance, whole))
        count = max(1, int(len(whole) * SHARE))
        best, wanted = (set(largest(scores, count).tolist()) for scores in (importance, whole))
        self.shared[source].append(len(best & wanted) / count)

    def table(self) -> Table:
        """A row for each source, for a report."""
        rows = [
            {"source": source, "spearman": float(np.nanmean(ranks)), "best_shared": float(np.mean(shared))}
            for (source, ranks), shared in zip(self.ranks.items(), self.shared.values(), strict=True)
        ]
        return Table("layer_agreement", rows, title="agreement with the attention of the whole large model")
