"""Which model makes the embeddings, and how it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ...bundles import Device, Dtype
from ...options import Option, OptionError, check
from .. import encoder_rows, model_help

MODEL, IMAGE_MODEL = "minilm", "vit-minilm"
"""The default encoders, of texts and of galleries without any."""


def complete_model(incomplete: str) -> list[tuple[str, str]]:
    """Shell completion of the encoders that have a name."""
    return [(row.name, row.summary) for row in encoder_rows("name") if row.name.startswith(incomplete)]


AllowDownload = Annotated[
    bool, Option("Ask the Hugging Face hub for a model that is not on this machine.", common=True)
]


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which model, for a verb that goes through temperatures of its own; see ``EncoderOptions``."""

    model: Annotated[str, Option(model_help(), short="-m", metavar="NAME|DIR|FILE", complete=complete_model)] = MODEL
    temperature: float = 1.0
    max_tokens: Annotated[int | None, Option("Cut longer texts.", metavar="N", least=4, shown="the model's limit")] = (
        None
    )
    device: Device = "auto"
    dtype: Dtype = "float32"
    allow_download: AllowDownload = False

    def __post_init__(self) -> None:
        check(self)
        check_temperature(self.temperature)


@dataclass(frozen=True, slots=True)
class EncoderOptions(ModelOptions):
    """What makes an embedding: two embeddings can be compared only where all of this is the same.

    Parameters
    ----------
    model : str
        What a row of ``attn.core.retrieve.METHODS`` recognises: a name, a folder, a model file, an id.
    temperature : float
        Of the attention (TempScale); 1 leaves the model as it is.
    max_tokens : int, optional
        Longer texts are cut; default: the model's own limit.
    device, dtype : str
    allow_download : bool
        Ask the hub for a model that is not on this machine.

    Raises
    ------
    OptionError
        If the temperature is not positive, or ``max_tokens`` is too small.
    """

    temperature: Annotated[
        float, Option("Of the attention (TempScale); below 1 is sharper.", short="-T", metavar="T")
    ] = 1.0


@dataclass(frozen=True, slots=True)
class GalleryEncoderOptions(EncoderOptions):
    """The same for a gallery: where ``model`` is empty, ``verbs.index`` says which fits it."""

    model: Annotated[
        str,
        Option(
            model_help(), short="-m", metavar="NAME|DIR|FILE", complete=complete_model,
            shown=f"the index's own; else {MODEL}, {IMAGE_MODEL} where there is no text",
        ),
    ] = ""  # fmt: skip


def check_temperature(value: float) -> None:
    """Raise ``OptionError`` for a temperature that divides nothing."""
    if not value > 0:
        raise OptionError(f"{{temperature}}: {value:g} must be above 0; 1 is the model as it is.")
