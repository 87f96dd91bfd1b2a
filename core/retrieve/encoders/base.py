"""What an encoder is: texts or images in, unit vectors out, and a fingerprint that says which may be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...options import OptionError
from .. import image_models

Side = Literal["document", "query"]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What made a vector; those of different fingerprints must not be compared.

    Specification: methods/retrieval-peers.md, section 4.

    Parameters
    ----------
    model : str
        What the user called it; two names of the same weights are no difference.
    sha256 : str
        Of the files of weights, see ``weights.fingerprint``.
    dim : int
    pooling : str
        ``"mean"``, ``"cls"``, ...; joined by ``+`` where several are concatenated.
    normalise : bool
        Rows have length 1.
    temperature : float
        Attention logits were divided by it.
    max_tokens : int or None
        Longer texts were cut; None where there are no texts.
    image_size : int or None
        Side in pixels of what the image tower sees; None where there are no images.
    """

    model: str
    sha256: str
    dim: int
    pooling: str
    normalise: bool
    temperature: float
    max_tokens: int | None
    image_size: int | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Fingerprint:
        """Of ``to_dict``; further keys are ignored. Raises ``UsageError`` where one is missing or wrong."""
        names = [field.name for field in fields(cls)]
        if missing := [name for name in names if name not in values]:
            raise UsageError(f"this is no fingerprint of an encoder: {', '.join(missing)} missing.")
        kinds = {
            "model": str, "sha256": str, "dim": int, "pooling": str, "normalise": bool, "temperature": float | int,
            "max_tokens": int | None, "image_size": int | None,
        }  # fmt: skip
        if wrong := [name for name, kind in kinds.items() if not isinstance(values[name], kind)]:
            raise UsageError(f"this is no fingerprint of an encoder: {', '.join(wrong)} of the wrong type.")
        return cls(**{name: values[name] for name in names})

    def difference(self, other: Fingerprint) -> str:
        """What differs, as ``name mine / theirs``, or an empty string where the vectors can be compared."""
        parts = []
        for name in (field.name for field in fields(self)):
            mine, theirs = getattr(self, name), getattr(other, name)
            if name == "model" or mine == theirs:
                continue
            if name == "sha256":
                parts.append(f"weights {self.model} ({mine[:8]}) / {other.model} ({theirs[:8]})")
            else:
                parts.append(f"{name} {mine} / {theirs}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors in the order of what was encoded.

    Parameters
    ----------
    vectors : ndarray, shape (n, dim), float32
        Unit rows.
    truncated : ndarray, shape (n,), bool
        Texts that had more tokens than the model takes; all False for images.
    tokens : ndarray, shape (n,), int64
        Tokens that were used, special ones included; 0 for images.
    """

    vectors: NDArray[np.float32]
    truncated: NDArray[np.bool_]
    tokens: NDArray[np.int64]


class Encoder(Protocol):
    """A model ready to encode."""

    @property
    def fingerprint(self) -> Fingerprint:
        """What makes its vectors."""
        ...

    @property
    def modalities(self) -> frozenset[str]:
        """Of ``"text"`` and ``"image"``, what it encodes."""
        ...

    @property
    def engine(self) -> str:
        """Whose code runs it, for reports: ``"attn"``, ``"transformers"``, ``"open_clip"``; joined by ``+``."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the loader noticed and the user should know."""
        ...

    def encode_texts(self, texts: Sequence[str], *, side: Side = "document") -> Encoded:
        """Encode texts; an empty one gets a vector, too.

        Parameters
        ----------
        texts : sequence of str
        side : {"document", "query"}
            Some models put different prompts in front of the two.

        Raises
        ------
        UsageError
            If it encodes images only.
        """
        ...

    def encode_images(self, images: Sequence[NDArray[np.float32]]) -> Encoded:
        """Encode photos [3, H, W], RGB in [0, 1], any sizes.

        Raises
        ------
        UsageError
            If it encodes texts only.
        ValueError
            If an array is no such photo.
        """
        ...


def no_images(model: str) -> UsageError:
    """The error of an encoder of texts that is given images."""
    return OptionError(f"{{model}}: {model} encodes texts only. Images need one of {image_models()}.")
