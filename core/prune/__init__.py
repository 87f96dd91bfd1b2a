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
            "fastv",
            home="attn.core.prune.methods.fastv:FastV",
            summary="attention of the last prompt token, early in the language model",
            paper="ECCV 2024, arXiv 2403.06764",
            year=2024,
            options=("layer",),
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
