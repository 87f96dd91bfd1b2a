"""Fingerprints: what may be compared."""

from __future__ import annotations

import dataclasses
import json

import pytest

from attn.core.errors import UsageError
from attn.core.retrieve.encoders.base import Fingerprint

MINILM = Fingerprint("minilm", "53aa51172d142c89", 384, "mean", True, 1.0, 256, None)


def test_round_trip_through_json() -> None:
    assert Fingerprint.from_dict(json.loads(json.dumps(MINILM.to_dict()))) == MINILM
    assert Fingerprint.from_dict(MINILM.to_dict() | {"later": 1}) == MINILM


def test_missing_fields() -> None:
    with pytest.raises(UsageError, match="dim, pooling missing"):
        Fingerprint.from_dict({k: v for k, v in MINILM.to_dict().items() if k not in ("dim", "pooling")})


def test_another_name_of_the_same_weights_is_no_difference() -> None:
    assert MINILM.difference(dataclasses.replace(MINILM, model="./copy")) == ""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"temperature": 0.9}, "temperature 1.0 / 0.9"),
        ({"max_tokens": 128, "pooling": "cls"}, "pooling mean / cls, max_tokens 256 / 128"),
        ({"model": "other", "sha256": "deadbeef00"}, "weights minilm (53aa5117) / other (deadbeef)"),
        ({"image_size": 224}, "image_size None / 224"),
    ],
)
def test_differences_are_named(change: dict[str, object], expected: str) -> None:
    assert MINILM.difference(dataclasses.replace(MINILM, **change)) == expected  # type: ignore[arg-type]
