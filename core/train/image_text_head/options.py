"""What `attn train image-text-head` can be told, as one frozen value, and the recipe's registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from ...bundles import Compute
from ...command import Verb
from ...fit.options import FILES, ConfigFile
from ...options import Option, OptionError, check
from ...sizes import parse_sizes

BLOCKS, LEAST_SIZE = 12, 28
"""Blocks of the ViT, and the smallest side of a photo in px."""


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """Data, and how the head is fitted.

    Parameters
    ----------
    data : Path
        Images with captions, see ``formats.read_captioned``. With splits, ``train`` is fitted and ``test`` is scored
        once; without, all of it is fitted and the cross-validation is the score.
    output : Path
        Folder of ``model.safetensors`` and ``model.md``, and of ``photos.tsv`` where the data name licences.
    images : Path or None
        Folder of the images.
    method : {"cca", "ridge"}
        See ``fit``; ``ridge`` is the published one.
    penalty : float or None
        Of the photos' side; None: the best of ``fit.PENALTIES`` in the cross-validation.
    text_penalty : float or None
        Of the texts' side, for ``cca``; None: the best of ``fit.TEXT_PENALTIES``.
    dim : int or None
        Of the space of ``cca``; None: ``fit.DIM``.
    folds : int
    sizes, blocks : tuple of int
        See ``vit_minilm.Views``. Published: 112 and 12.
    config : Path or None
        See ``TrainingOptions``.
    compute : Compute
        The seed is that of the folds.

    Raises
    ------
    OptionError
        If a size or a block is none the ViT has, or the method has no such option.
    """

    data: Annotated[
        Path, Option("JSONL {image, captions, split?}, or Karpathy JSON, of photos.", metavar="FILE", resumable=True)
    ]
    output: Annotated[Path, Option("Folder of the head and its card.", short="-o", metavar="DIR", resumable=True)]
    images: Annotated[
        Path | None, Option("Folder that image paths are relative to.", metavar="DIR", resumable=True)
    ] = None
    method: Annotated[
        Literal["cca", "ridge"],
        Option("cca: canonical correlation, a space of its own. ridge: published, the space of the texts."),
    ] = "cca"
    penalty: Annotated[
        float | None, Option("Of the photos' side.", metavar="X", above=0.0, shown="by cross-validation")
    ] = None
    text_penalty: Annotated[
        float | None,
        Option(
            "Of the texts' side of cca, as a share of their mean variance.", metavar="X", above=0.0,
            shown="by cross-validation",
        ),
    ] = None  # fmt: skip
    dim: Annotated[int | None, Option("Dimensions of cca.", metavar="N", least=1, most=384, shown="128")] = None
    folds: Annotated[int, Option("Of the cross-validation.", metavar="N", least=2)] = 5
    sizes: Annotated[
        tuple[int, ...],
        Option("Sides at which the ViT sees each photo.", metavar="PX[,PX...]", parse=parse_sizes, text="224"),
    ] = (224,)
    blocks: Annotated[
        tuple[int, ...],
        Option("Blocks of the ViT to read, of 12.", metavar="N[,N...]", parse=parse_sizes, text="10,11,12"),
    ] = (10, 11, 12)
    config: ConfigFile = None
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)
        if wrong := [size for size in self.sizes if size < LEAST_SIZE]:
            raise OptionError(f"{{sizes}}: {wrong[0]} px are too few; {LEAST_SIZE} are the least.")
        if wrong := [block for block in self.blocks if not 1 <= block <= BLOCKS]:
            raise OptionError(f"{{blocks}}: there is no block {wrong[0]}; the ViT has blocks 1 to {BLOCKS}.")
        for name in ("text_penalty", "dim"):
            if self.method != "cca" and getattr(self, name) is not None:
                raise OptionError(f"{{{name}}}: {self.method} has none to set. Leave it out, or use {{method}} cca.")


RECIPE = Verb(
    options=HeadOptions,
    run="attn.core.train.image_text_head.run:train_head",
    description="""Join the packaged ViT and text encoder by a linear head, for retrieval of images by sentences.

    Only photos that were held out are scored: by cross-validation, and on the test split where there is one.
    """,
    examples=(
        ("attn train image-text-head --data captions.jsonl -o head/", "The penalties are chosen by cross-validation."),
        (
            "attn train image-text-head --data c.jsonl -o head/ --method ridge --sizes 112 --blocks 12",
            "The published form.",
        ),
        ("attn retrieve index photos/ -o i --model head/model.safetensors", "Use what was trained."),
    ),
    files=(*FILES[:1], ("OUT/photos.tsv", "Licence and source of each photo, where the data say them.")),
)
