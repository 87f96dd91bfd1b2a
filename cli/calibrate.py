"""`attn prune calibrate`: what methods learn beforehand, the rows of a registry."""

from __future__ import annotations

from .verbs import app_of

app = app_of("prune calibrate", "Fit what a pruning method learns, on data of its own.")
