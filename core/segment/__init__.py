"""Segmentation of retinal vessels in fundus photographs: the models of ``attn segment``."""

from ..registry import Method, Registry

MODELS = Registry(
    "segment",
    [
        Method(
            "fsgnet",
            home="attn.core.segment.fsgnet.network:fsgnet",
            summary="full-scale network with an attention-guided filter; trained weights ship with the package",
            paper="arXiv 2501.18921",
            year=2025,
            note="The weights are ours (width 8, trained on DRIVE for research); the paper's (width 64) cannot be had.",
        ),
        Method(
            "frangi",
            home="attn.core.segment.ridge:vesselness",
            summary="Frangi ridge filter",
            paper="doi:10.1007/BFb0056195, scikit-image",
            year=1998,
            status="baseline",
        ),
        Method(
            "sato",
            home="attn.core.segment.ridge:vesselness",
            summary="Sato ridge filter",
            paper="doi:10.1016/S1361-8415(98)80009-1, scikit-image",
            year=1998,
            status="baseline",
        ),
        Method(
            "meijering",
            home="attn.core.segment.ridge:vesselness",
            summary="Meijering ridge filter",
            paper="doi:10.1002/cyto.a.20022, scikit-image",
            year=2004,
            status="baseline",
        ),
    ],
)
