"""Training: the recipes of ``attn train``. All share ``trainer.fit``."""

from ..registry import Method, Registry

RECIPES = Registry(
    "train",
    [
        Method(
            "fsgnet",
            home="attn.core.train.run:train_fsgnet",
            summary="vessel segmentation: FSG-Net, or its guided decoder on a U-Net, BiFormer or halo trunk",
            paper="arXiv 2501.18921",
            year=2025,
        ),
    ],
)
