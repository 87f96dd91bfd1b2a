"""The figure of `attn probe collapse`: by length, layer by layer, pass keys; one colour a temperature."""

from __future__ import annotations

import numpy as np

from ...report.canvas import literal
from ..panel import FigureData, FigureFile


def draw(data: FigureData, canvas: FigureFile) -> None:
    """Six panels of what ``measure.Crowding.arrays`` holds."""
    arrays = data.arrays
    taus = arrays["temperature"]
    names = [f"{low + 1}-{high}" for low, high in arrays["bucket"]]
    with canvas((1800, 1000), layout="constrained") as figure:
        import matplotlib

        colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.8, len(taus)))
        figure.suptitle(literal(data.title))
        (length, cut, cross), (ratio, sigma, keys) = figure.subplots(2, 3)
        for index, (tau, colour) in enumerate(zip(taus, colours, strict=True)):
            label = f"temperature {tau:g}"
            length.plot(names, arrays["pair_similarity"][index], marker="o", color=colour, label=label)
            cut.plot(arrays["cut"], arrays["cut_similarity"][index], marker="o", color=colour, label=label)
            for of, style in ((0, ":"), (-1, "-")):
                hf, stretch = arrays["hf_ratio"][index, of], arrays["sigma"][index, of]
                ratio.plot(range(len(hf)), hf, style, color=colour)
                sigma.plot(range(1, 1 + len(stretch)), stretch, style, color=colour)
            if len(arrays["passkey_tokens"]):
                tokens = arrays["passkey_tokens"]
                keys.plot(tokens, arrays["found"][index], marker="o", color=colour)
                keys.plot(tokens, arrays["found_among_all"][index], "o:", color=colour)
        length.set(title="Two texts of one length", xlabel="tokens", ylabel="mean cosine")
        cut.set(title="The same texts, cut", xlabel="tokens", ylabel="mean cosine")
        if not len(arrays["cut"]):
            cut.text(0.5, 0.5, "no text is long enough", ha="center", transform=cut.transAxes)
        drawn = cross.imshow(arrays["cross_similarity"][0], cmap="viridis")
        figure.colorbar(drawn, ax=cross, label="mean cosine")
        cross.set(title=f"Between lengths, temperature {taus[0]:g}", xlabel="tokens", ylabel="tokens")
        cross.set_xticks(range(len(names)), names, rotation=30, ha="right")
        cross.set_yticks(range(len(names)), names)
        ratio.set(title="High-frequency ratio (dotted: shortest texts)", xlabel="layer (0: embeddings)", ylabel="share")
        sigma.set(
            title="Sigma: how far attention stretches differences", xlabel="layer", ylabel="largest singular value"
        )
        keys.set(
            title="Pass key found first (dotted: among all lengths)",
            xlabel="tokens of a document",
            ylabel="share",
            ylim=(-0.02, 1.02),
        )
        if len(arrays["passkey_tokens"]):
            keys.axhline(data.facts["passkey_chance"], color="grey", linewidth=0.8, linestyle="--")
            keys.set_xscale("log", base=2)
            keys.set_xticks(arrays["passkey_tokens"], [str(n) for n in arrays["passkey_tokens"]])
        else:
            keys.text(0.5, 0.5, "not tested", ha="center", transform=keys.transAxes)
        length.legend(frameon=False)
