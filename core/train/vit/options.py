"""What the recipes of pruned ViTs can be told alike, each stated once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ...options import Option, OptionError, check

if TYPE_CHECKING:
    from ...nets.vit import ViTShape

DRAWN = "shapes"


@dataclass(frozen=True, slots=True)
class PictureOptions:
    """Pictures with classes, and batches of them.

    Parameters
    ----------
    data : str
        See ``data.read_pictures``.
    image_size : int
    batch : int
        Pictures per step.
    augment : {"auto", "mirror", "crop", "none"}
        ``auto``: mirror images of what is drawn, crops and mirror images of files.
    """

    data: Annotated[
        str,
        Option(
            "A folder with a folder for each class, parquet with image and label, or shapes: drawn.",
            metavar="DATA", resumable=True,
        ),
    ] = DRAWN  # fmt: skip
    image_size: Annotated[int, Option("Side of a picture.", metavar="PX", least=8)] = 32
    batch: Annotated[int, Option("Pictures per step.", metavar="N", least=1)] = 32
    augment: Annotated[
        str,
        Option(
            "mirror images; crop: crops, too; auto: crops of files.", metavar="auto|mirror|crop|none",
            choices=("auto", "mirror", "crop", "none"),
        ),
    ] = "auto"  # fmt: skip

    def __post_init__(self) -> None:
        check(self)

    @property
    def augmentation(self) -> str:
        """What ``auto`` means here."""
        if self.augment != "auto":
            return self.augment
        return "mirror" if self.data == DRAWN else "crop"


@dataclass(frozen=True, slots=True)
class PlainOptions(PictureOptions):
    """Pictures, network, and the plain ViT that a run trains first.

    Parameters
    ----------
    patch, width, layers, heads : int
        Of the network.
    plain_steps : int
        Of the plain ViT.
    """

    patch: Annotated[int, Option("Side of a patch.", metavar="PX", least=1)] = 4
    width: Annotated[int, Option("Channels of a token.", metavar="C", least=8)] = 64
    layers: Annotated[int, Option("Blocks.", metavar="N", least=4)] = 6
    heads: Annotated[int, Option(metavar="N", least=1)] = 4
    plain_steps: Annotated[int, Option("Of the plain ViT, which comes first.", metavar="N", least=2)] = 600

    def __post_init__(self) -> None:
        check(self)
        if self.image_size % self.patch:
            raise OptionError(f"{{image_size}}: {self.image_size} px must be a multiple of {{patch}} {self.patch}.")
        if self.width % self.heads:
            raise OptionError(f"{{width}}: {self.width} must be a multiple of {{heads}} {self.heads}.")

    def shape(self, classes: int) -> ViTShape:
        """Of the network for so many classes."""
        from ...nets.vit import ViTShape

        return ViTShape(
            self.image_size, self.patch, num_classes=classes, dim=self.width, depth=self.layers, num_heads=self.heads
        )
