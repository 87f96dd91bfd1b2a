"""All operators, imported and looked at: ``torch.compile`` runs an import statement while it traces, but not these."""

from __future__ import annotations

from .contract import Operator
from .registry import OPERATORS

TRACED: dict[str, Operator] = {}
for name, row in OPERATORS.items():
    if not row.missing():
        TRACED[name] = row.resolve()
        _ = TRACED[name].parameters  # kept by the operator from now on
