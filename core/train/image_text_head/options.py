"""What `attn train image-text-head` can be told, as one frozen value, and the recipe's registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from ...bundles import Compute
from ...command import Verb
from ...fit.options import FILES, ConfigFile
from ...options import Option, check

BLOCK = 12


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """Data, and how the head is fitted.

    Parameters
    ----------
    data : Path
        Images with captions, see ``formats.read_captioned``. With splits, ``train`` is fitted and ``test`` is scored
        once; without, all of it is fitted and the cross-validation is the score.
    output : Path
        Folder of ``model.safetensors`` and ``model.md``.
    images : Path or None
        Folder of the images.
    penalty : float or None
        Of the ridge; None: the best of ``PENALTIES`` in the cross-validation.
    folds : int
    image_size : int
        Side in px at which the ViT sees photos.
    block : int
        Of the ViT whose output is taken; 12: behind the final norm.
    config : Path or None
        See ``TrainingOptions``.
    compute : Compute
        The seed is that of the folds.
    """

    data: Annotated[
        Path, Option("JSONL {image, captions, split?}, or Karpathy JSON, of photos.", metavar="FILE", resumable=True)
    ]
    output: Annotated[Path, Option("Folder of the head and its card.", short="-o", metavar="DIR", resumable=True)]
    images: Annotated[
        Path | None, Option("Folder that image paths are relative to.", metavar="DIR", resumable=True)
    ] = None
    penalty: Annotated[float | None, Option("Of the ridge.", metavar="X", least=0.0, shown="by cross-validation")] = (
        None
    )
    folds: Annotated[int, Option("Of the cross-validation.", metavar="N", least=2)] = 5
    image_size: Annotated[int, Option("Side at which the ViT sees photos.", metavar="PX", least=28)] = 112
    block: Annotated[int, Option("Block of the ViT to read.", metavar="N", least=1, most=BLOCK)] = BLOCK
    config: ConfigFile = None
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)


RECIPE = Verb(
    options=HeadOptions,
    run="attn.core.train.image_text_head.run:train_head",
    description="""Join the packaged ViT and text encoder by a linear head, for retrieval of images by sentences.

    Only photos that were held out are scored: by cross-validation, and on the test split where there is one.
    """,
    examples=(
        ("attn train image-text-head --data captions.jsonl -o head/", "The penalty is chosen by cross-validation."),
        ("attn retrieve index photos/ -o i --model head/model.safetensors", "Use what was trained."),
    ),
    files=FILES[:1],
)
