"""What the verbs share: the arguments that a report records, and the progress display of a call."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from attn.core.bundles import Reporting
from attn.core.options import stated

if TYPE_CHECKING:
    from ..show import Watch


def arguments(verb: str, *bundles: Any) -> dict[str, Any]:
    """A verb's options by field, as its report records them."""
    values = {
        option.field: functools.reduce(getattr, option.path, bundle)
        for bundle in bundles
        for option in stated(type(bundle))
    }
    return {"verb": verb, **values, "argv": sys.argv[1:]}


@contextmanager
def watching(reporting: Reporting) -> Iterator[Watch]:
    """The progress display of a call; that the report could be written is checked before the work, not after it."""
    from attn.core.report.write import check_report_path

    from ..show import Watch

    if reporting.report_file is not None:
        check_report_path(reporting.report_file)
    watch = Watch(quiet=reporting.quiet)
    try:
        yield watch
    finally:
        watch.close()
