"""SGL: "A Stitch in Time Saves Nine: Small VLM is a Precise Guidance for Accelerating Large VLMs" (methods/sgl.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ...errors import UsageError
from ...models.load import load_model
from ...models.loaded import Loaded
from ...models.tokens import vocabulary
from ...options import OptionError
from ..engine.moment import Moment, PruneStage, TokenChoice
from ..engine.prompts import Prompts, prompts_of
from ..engine.sites import VisionLanguageSite, site_of
from ..methods.base import Keep, Pruner, top
from .guide import run_guide, same_tokens
from .importance import TextRows

_IMPORTANCE = "sgl.importance"


@dataclass(frozen=True)
class SGL(Pruner):
    """The tokens that a small model attended to most, in all of its layers and heads, while it answered.

    Over all layers 64, 36 and 9 % of the tokens are left of 48 layers with ``f_layer`` and share 0.4 and 0.4, 0.2 and
    0.2, ``layer`` 2 and share 0.05 (section 3.2).

    Parameters
    ----------
    guide : Module, Loaded or str
        The small model; as a name it is loaded beside the large one.
    f_layer : float
        Tokens are taken out in front of the large model's layer int(depth f_layer).
    layer : int, optional
        That layer itself.
    rows : {"paper", "code"}
        See ``importance.received_attention``.
    guide_tokens : int
        Longest answer of the guide.
    """

    attentive = True

    guide: nn.Module | Loaded | str | None = None
    f_layer: float = 0.4
    layer: int | None = None
    rows: TextRows = "paper"
    guide_tokens: int = 10

    def stages(self, site: VisionLanguageSite, keep: Keep) -> Sequence[PruneStage]:
        if self.guide is None:
            raise OptionError("{guide}: sgl needs a smaller model of the same family, which says what matters.")
        if not 0 <= self.f_layer < 1:
            raise UsageError(f"f_layer: {self.f_layer} is no share of the layers, from 0 and below 1.")
        guide = guide_site(self.guide, site)

        def choose(moment: Moment) -> list[TokenChoice]:
            scores = self.modified(moment, self._importance(guide, moment.prompts))
            return [
                top(score[numbers], numbers, keep.of(len(score)))
                for score, numbers in zip(scores, moment.numbers, strict=True)
            ]

        layer = int(site.depth * self.f_layer) if self.layer is None else self.layer
        return [PruneStage(layer, choose, pixels=True)]

    def _importance(self, guide: VisionLanguageSite, prompts: Prompts) -> list[Tensor]:
        """Of each prompt's visual tokens, by the guide's own run on what the large model was given."""
        if _IMPORTANCE not in prompts.cache:
            call = {**prompts.inputs, **prompts.pixels}
            if (largest := int(prompts.input_ids.max())) >= vocabulary(guide.model):
                raise OptionError(f"{{guide}}: it has no token {largest}. Take one that reads the same tokens.")
            for own, count in zip(prompts_of(guide, call).counts, prompts.counts, strict=True):
                same_tokens(own, count)
            run = run_guide(guide, call, max_new_tokens=self.guide_tokens, rows=self.rows)
            prompts.note("sgl: the guide's own run comes on top of what is counted for the large model.")
            prompts.cache[_IMPORTANCE] = run.received.importance()
        importance: list[Tensor] = prompts.cache[_IMPORTANCE]
        return importance


def guide_site(guide: nn.Module | Loaded | str, large: VisionLanguageSite) -> VisionLanguageSite:
    """Where the parts of a guide are. Raises ``UsageError`` if it is the large model itself, or none to prune."""
    if isinstance(guide, str):
        weight = next(large.model.parameters())
        try:
            guide = load_model(guide, "vision-language", device=weight.device, dtype=weight.dtype)
        except OptionError as error:  # of the model, it says
            raise OptionError(error.text.partition(" {allow_download}")[0].replace("{model}", "{guide}")) from None
    site = site_of(guide)
    if site.model is large.model:
        raise OptionError("{guide}: it is the large model itself. Take a smaller one of the same family.")
    return site
