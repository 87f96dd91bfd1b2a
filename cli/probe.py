"""`attn probe`: the kinds of the registry."""

from __future__ import annotations

from functools import partial

from .verbs import app_of
from .verbs import verbs as verbs_of

verbs = partial(verbs_of, "probe")
EXAMPLES = (("attn probe --list", "The kinds."),)
app = app_of("probe", "Look into models: what their attention does on your own pictures.")
