"""Poolings of patch tokens for probes of frozen features: many tokens in, one vector out.

Specification: methods/efficient-probing.md, sections 3.1 to 3.5. This table imports no torch. A row resolves to the
pooling's class; ``contract.pooling_of`` makes one. The classes have the parameter names of the official code, so that
a head trained there loads here.
"""

from __future__ import annotations

from ...registry import Method, Registry

POOLINGS = Registry(
    "pooling",
    [
        Method(
            "ep",
            home="attn.core.nets.poolings.ep:EfficientPooling",
            summary="learned queries, each with channels of its own; no key projection",
            paper="Attention, Please!, arXiv 2506.10178",
            year=2025,
            note="--queries and --d-out size it.",
        ),
        Method(
            "gap",
            home="attn.core.nets.poolings.averages:MeanPooling",
            summary="the mean of the tokens",
            paper="Network in Network, arXiv 1312.4400",
            year=2013,
        ),
        Method(
            "aim",
            home="attn.core.nets.poolings.crossing:AimPooling",
            summary="one learned query over normalised tokens, heads, no output projection",
            paper="AIM, arXiv 2401.08541",
            year=2024,
        ),
        Method(
            "abmilp",
            home="attn.core.nets.poolings.scoring:AbmilpPooling",
            summary="self-attention, then a small network scores each token",
            paper="ABMILP, arXiv 2412.03215",
            year=2024,
        ),
        Method(
            "simpool",
            home="attn.core.nets.poolings.averages:SimPooling",
            summary="the mean token asks, one head, no value projection",
            paper="SimPool, arXiv 2309.06891",
            year=2023,
        ),
        Method(
            "esimpool",
            home="attn.core.nets.poolings.averages:LeanSimPooling",
            summary="the mean token asks, several heads, no matrix at all",
            paper="Attention, Please!, arXiv 2506.10178",
            year=2025,
        ),
        Method(
            "clip",
            home="attn.core.nets.poolings.blocks:ClipPooling",
            summary="self-attention of the mean token, with positions",
            paper="CLIP, arXiv 2103.00020",
            year=2021,
        ),
        Method(
            "siglip",
            home="attn.core.nets.poolings.crossing:SiglipPooling",
            summary="a latent query, then an MLP",
            paper="SigLIP, arXiv 2303.15343",
            year=2023,
        ),
        Method(
            "cae",
            home="attn.core.nets.poolings.crossing:CaePooling",
            summary="a learned query; queries, keys and values normalised apart",
            paper="CAE, arXiv 2202.03026",
            year=2022,
        ),
        Method(
            "coca",
            home="attn.core.nets.poolings.crossing:CocaPooling",
            summary="multi-query attention, keys and values shared by all heads",
            paper="CoCa, arXiv 2205.01917",
            year=2022,
        ),
        Method(
            "cait",
            home="attn.core.nets.poolings.blocks:CaitPooling",
            summary="one class-attention block with LayerScale",
            paper="CaiT, arXiv 2103.17239",
            year=2021,
        ),
        Method(
            "dinovit",
            home="attn.core.nets.poolings.blocks:BlockPooling",
            summary="one whole transformer block, then the mean",
            paper="DINO, arXiv 2104.14294",
            year=2021,
        ),
        Method(
            "jepa",
            home="attn.core.nets.poolings.blocks:JepaPooling",
            summary="a learned query through one cross-attention block",
            paper="V-JEPA, arXiv 2404.08471",
            year=2024,
        ),
        Method(
            "cbam",
            home="attn.core.nets.poolings.scoring:CbamPooling",
            summary="gates over channels and places, then the mean; needs a square grid",
            paper="CBAM, arXiv 1807.06521",
            year=2018,
        ),
        Method(
            "dolg",
            home="attn.core.nets.poolings.scoring:DolgPooling",
            summary="each token weighted by a score of its own (DELF)",
            paper="DOLG, arXiv 2108.02927",
            year=2021,
        ),
    ],
)
