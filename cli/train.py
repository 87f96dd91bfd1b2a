"""`attn train`: the recipes of the registry."""

from __future__ import annotations

from functools import partial

from attn.core.fit.options import FILES as FILES
from attn.core.fit.options import NOTES as NOTES

from .verbs import app_of
from .verbs import verbs as verbs_of

verbs = partial(verbs_of, "train")
EXAMPLES = (("attn train --list", "The recipes."),)
app = app_of("train", "Train models; every recipe resumes, streams its metrics and keeps its best weights.")
