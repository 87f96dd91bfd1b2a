"""What the verbs share: the arguments that a report records."""

from __future__ import annotations

import functools
import sys
from typing import Any

from attn.core.options import stated


def arguments(verb: str, *bundles: Any) -> dict[str, Any]:
    """A verb's options by field, as its report records them."""
    values = {
        option.field: functools.reduce(getattr, option.path, bundle)
        for bundle in bundles
        for option in stated(type(bundle))
    }
    return {"verb": verb, **values, "argv": sys.argv[1:]}
