"""Segmentation of retinal vessels in fundus photographs: the models of ``attn segment``."""

from ..registry import Method, Registry

MODELS = Registry(
    "segment",
    [
        Method(
            "fsgnet",
            home="attn.core.segment.network:packaged",
            summary="full-scale network with an attention-guided filter; trained weights ship with the package",
            paper="arXiv 2501.18921",
            year=2025,
            options=("save_attention",),
<<<<<<< HEAD
            note="The weights are ours (width 8, trained on DRIVE for research); the paper's (width 64) cannot be had.",
=======
            note="The weights are ours (width 16, for research); the paper's (width 64) cannot be had.",
        ),
        Method(
            "fsgnet-free",
            home="attn.core.segment.network:packaged",
            summary="fsgnet trained on photos of free terms alone (HRF, FIVES: CC BY 4.0)",
            paper="arXiv 2501.18921",
            year=2025,
            options=("save_attention",),
            note="The weights are ours (width 16) and saw no photo of DRIVE.",
>>>>>>> e7087de (train fsgnet: the model file keeps the calibration of its held-out photos)
        ),
        Method(
            "unet",
            home="attn.core.segment.network:packaged",
            summary="U-Net under the attention-guided decoder of fsgnet",
            paper="MICCAI 2015, arXiv 1505.04597; arXiv 2501.18921",
            year=2025,
            trained=False,
            options=("save_attention",),
            note="No weights ship: attn train fsgnet --trunk unet makes them.",
        ),
        Method(
            "biformer-unet",
            home="attn.core.segment.network:packaged",
            summary="BiFormer blocks (bi-level routing attention) under the decoder of fsgnet",
            paper="CVPR 2023, arXiv 2303.08810; arXiv 2501.18921",
            year=2025,
            trained=False,
            options=("save_attention",),
            note="No weights ship: attn train fsgnet --trunk biformer makes them.",
        ),
        Method(
            "halo-unet",
            home="attn.core.segment.network:packaged",
            summary="halo attention under the decoder of fsgnet",
            paper="CVPR 2021, arXiv 2103.12731; arXiv 2501.18921",
            year=2025,
            trained=False,
            options=("save_attention",),
            note="No weights ship: attn train fsgnet --trunk halo makes them.",
        ),
        Method(
            "frangi",
            home="attn.core.segment.ridge:RidgeSegmenter",
            summary="Frangi ridge filter",
            paper="doi:10.1007/BFb0056195, scikit-image",
            year=1998,
            device="cpu",
            options=(),
            status="baseline",
        ),
        Method(
            "sato",
            home="attn.core.segment.ridge:RidgeSegmenter",
            summary="Sato ridge filter",
            paper="doi:10.1016/S1361-8415(98)80009-1, scikit-image",
            year=1998,
            device="cpu",
            options=(),
            status="baseline",
        ),
        Method(
            "meijering",
            home="attn.core.segment.ridge:RidgeSegmenter",
            summary="Meijering ridge filter",
            paper="doi:10.1002/cyto.a.20022, scikit-image",
            year=2004,
            device="cpu",
            options=(),
            status="baseline",
        ),
    ],
)
