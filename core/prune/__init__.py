"""Which visual tokens a vision(-language) model can do without: the methods of ``attn prune``."""

from ..registry import Method, Registry

METHODS = Registry(
    "prune",
    [
        Method(
            "random",
            home="attn.core.prune.methods.random:Random",
            summary="tokens drawn at random: what every method must beat",
            paper="methods/pruning-peers.md, 3.1",
            year=2026,
            options=("layer", "seed"),
            status="baseline",
        ),
        Method(
            "uniform",
            home="attn.core.prune.methods.uniform:Uniform",
            summary="tokens at even distances",
            paper="methods/pruning-peers.md, 3.1",
            year=2026,
            options=("layer",),
            status="baseline",
        ),
        Method(
            "uniform2d",
            home="attn.core.prune.methods.uniform:Uniform2d",
            summary="the middles of a coarser grid of the picture's shape",
            paper="methods/pruning-peers.md, 3.1",
            year=2026,
            options=("layer",),
            status="baseline",
        ),
        Method(
            "fastv",
            home="attn.core.prune.methods.fastv:FastV",
            summary="attention of the last prompt token, early in the language model",
            paper="ECCV 2024, arXiv 2403.06764",
            year=2024,
            options=("layer",),
        ),
        Method(
            "visionzip",
            home="attn.core.prune.methods.visionzip:VisionZip",
            summary="what the image tower looks at, and the rest merged, before the language model",
            paper="CVPR 2025, arXiv 2412.04467",
            year=2025,
            options=(),
        ),
        Method(
            "sparsevlm",
            home="attn.core.prune.methods.sparsevlm:SparseVLM",
            summary="attention of the words that tell, in three stages; the best of the rest are merged",
            paper="ICML 2025, arXiv 2410.04417",
            year=2025,
            options=(),
        ),
        Method(
            "pyramiddrop",
            home="attn.core.prune.methods.pyramiddrop:PyramidDrop",
            summary="attention of the last prompt token in the layer that comes next, in three stages",
            paper="CVPR 2025, arXiv 2410.17247",
            year=2025,
            options=(),
        ),
        Method(
            "divprune",
            home="attn.core.prune.methods.divprune:DivPrune",
            summary="tokens that are as unlike each other as can be, before the language model",
            paper="CVPR 2025, arXiv 2503.02175",
            year=2025,
            options=(),
        ),
        Method(
            "prumerge",
            home="attn.core.prune.methods.prumerge:PruMerge",
            summary="tokens that the tower's class token looks at, their likes added, and even ones (--set plus=false)",
            paper="ICCV 2025, arXiv 2403.15388",
            year=2025,
            options=(),
            note="--keep is the number of tokens; with --set adaptive=true it is the most, and the picture decides",
        ),
        Method(
            "oracle",
            home="attn.core.prune.methods.oracle:Oracle",
            summary="attention of all the model's own layers, from a pass of its own: the upper line of a comparison",
            paper="methods/pruning-peers.md, 3.9",
            year=2026,
            options=("layer",),
            status="ours",
        ),
        Method(
            "vflowopt",
            home="attn.core.prune.vflowopt.method:VFlowOpt",
            summary="importance map of the image tower, three stages, pruned tokens come back merged",
            paper="ICCV 2025, arXiv 2508.05211",
            year=2025,
            options=("calibration",),
            note="plain settings without a strategy: `attn prune calibrate vflowopt` finds one for a model and budget",
        ),
        Method(
            "tome",
            home="attn.core.prune.vit.tome:ToMe",
            summary="similar tokens of an image transformer become one, in every block",
            paper="ICLR 2023, arXiv 2210.09461",
            year=2023,
            options=("layer",),
            note="for image classifiers and backbones",
        ),
        Method(
            "class-attention",
            home="attn.core.prune.vit.ranked:ClassAttention",
            summary="patches that the class token of an image transformer attends to most, in three stages",
            paper="methods/as-vit.md, section 11: what a fixed ratio comes to",
            year=2026,
            options=("layer",),
            status="baseline",
            note="for image classifiers and backbones",
        ),
        Method(
            "as-vit",
            home="attn.core.prune.vit.as_vit:AsViT",
            summary="patches whose class attention, heads weighted, is above a threshold; more of busier pictures",
            paper="IJCAI 2023, arXiv 2209.13802",
            year=2023,
            options=("layer",),
            note="for image classifiers and backbones; `attn train as-vit` learns the thresholds",
        ),
        Method(
            "sgl",
            home="attn.core.prune.sgl.pruner:SGL",
            summary="what a smaller model of the same family attends to, in all its layers, while it answers",
            paper="CVPR 2025, arXiv 2412.03324",
            year=2025,
            options=("layer", "guide"),
        ),
    ],
)
"""A row's home is a class derived from ``methods.base.Pruner`` or, for image classifiers and backbones, from
``vit.base.VitPruner``: a frozen dataclass whose fields are the method's settings, and those that the command line
knows are the row's ``options``."""

MODIFIERS = Registry(
    "prune",
    [
        Method(
            "debias",
            home="attn.core.prune.debias.modifier:Debias",
            summary="attention without the trend over positions (:pd) and without padding (:pas)",
            paper="arXiv 2508.17807",
            year=2026,
            options=("sigma", "calibration", "pad_threshold", "every_stage", "fill"),
            note="changes the scores of another method: fastv+debias",
        ),
    ],
)
"""What stands behind a method's name, as in ``fastv+debias``; see ``named``. A home is a class whose ``of(parts,
settings)`` gives a ``methods.base.Modifier``; the names of its settings are the row's ``options``."""
