"""Zero-shot denoising of CT and other grey images: the methods of ``attn denoise``."""

from ..registry import Method, Need, Registry

TRAINED = ("quality", "steps", "learning_rate", "seed", "dtype")
"""What a network that is fitted to the image reads."""
CLASSICAL = ("sigma",)
"""What a method of scikit-image, or of the package bm3d, reads."""

FOR_ANY = (*TRAINED, *CLASSICAL)
"""Options that are for methods of a kind: what a row that names no options may read. Others belong to the methods whose
rows name them, and are refused with the rest."""

EDITED = ("strength", "regions", "maps", "save_filter", "filter")
"""What a method reads whose filter can be looked at, edited and kept."""

SCENE = ("valid", "aspect")
"""What a ``fit`` may be told of a slice beside its pixels, as keywords: those that the method's row names among its
options. ``valid`` [H, W], False where pixels are padding, or None, which its filter is told too; ``aspect``, the height
of a pixel over its width."""

METHODS = Registry(
    "denoise",
    [
        Method(
            "adaptive",
            home="attn.core.denoise.adaptive.method:fit",
            summary="bilateral filters, mixed place by place by their estimated error; no training; the default",
            paper="ours, unpublished",
            year=2026,
            device="cpu",
            options=("preset", "seed", "volume", *EDITED, *SCENE),
            status="ours",
            note="Not a published method. How it was measured is in tests/benchmarks/denoise.md.",
        ),
        Method(
            "filter2noise",
            home="attn.core.denoise.filter2noise.method:fit",
            summary="attention-guided bilateral filter, fitted on the image itself",
            paper="arXiv 2504.13519",
            year=2025,
            options=(
                *TRAINED,
                "stages",
                "patch_size",
                "edge_weight",
                *EDITED,
            ),
        ),
        Method(
            "zs-n2n",
            home="attn.core.denoise.zs_n2n:fit",
            summary="small convolutional network, trained on two half-size views of the image",
            paper="CVPR 2023, arXiv 2303.11253",
            year=2023,
            options=TRAINED,
        ),
        Method(
            "bm3d",
            home="attn.core.denoise.classical.bm3d:fit",
            summary="block matching and collaborative filtering (package licence: non-commercial use only)",
            paper="doi:10.1109/TIP.2007.901238, package bm3d",
            year=2007,
            needs=(Need("bm3d", "bm3d", "bm3d"),),
            device="cpu",
            options=CLASSICAL,
            status="baseline",
            note="The package bm3d is licensed for non-commercial use only and therefore never installed by default.",
        ),
        Method(
            "nlm",
            home="attn.core.denoise.classical.nlm:fit",
            summary="non-local means",
            paper="CVPR 2005, scikit-image",
            year=2005,
            device="cpu",
            options=CLASSICAL,
            status="baseline",
        ),
        Method(
            "bilateral",
            home="attn.core.denoise.classical.bilateral:fit",
            summary="bilateral filter with one set of widths for the whole image",
            paper="ICCV 1998, scikit-image",
            year=1998,
            device="cpu",
            options=CLASSICAL,
            status="baseline",
        ),
        Method(
            "tv",
            home="attn.core.denoise.classical.tv:fit",
            summary="total variation (Chambolle)",
            paper="doi:10.1023/B:JMIV.0000011325.36760.1e, scikit-image",
            year=2004,
            device="cpu",
            options=CLASSICAL,
            status="baseline",
        ),
        Method(
            "wavelet",
            home="attn.core.denoise.classical.wavelet:fit",
            summary="wavelet shrinkage (BayesShrink)",
            paper="doi:10.1109/83.862633, scikit-image",
            year=2000,
            device="cpu",
            options=CLASSICAL,
            status="baseline",
        ),
    ],
)
