"""Pruning from Python: ``attn.prune``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import UsageError
from ..models.loaded import Loaded
from .engine.checks import Positions
from .engine.hooks import pruned
from .engine.moment import Moment, PruneStage, TokenChoice
from .engine.prompts import Pictured
from .engine.sites import is_vision_language, site_of
from .methods.base import Keep
from .named import pruner_of
from .options import KEEP
from .saved import read_saved, shape_in_words
from .vit.named import class_of, image_pruner_of
from .vit.site import image_site, is_image_transformer


@contextmanager
def prune(
    model: nn.Module | Loaded, method: str = "divprune", keep: float | int = 0.25, *, positions: Positions = "keep",
    pictures: Pictured | None = None, ids: Sequence[str] | None = None, saved: str | Path | None = None,
    **settings: Any,
) -> Iterator[Any]:  # fmt: skip
    """Let a vision-language model, an image classifier or a backbone run with fewer visual tokens.

    A model and its inputs as transformers has them; nothing else of the program changes:

    >>> import attn
    >>> with attn.prune(model, "fastv", keep=0.25, layer=2) as trace:
    ...     answer = model.generate(**inputs, max_new_tokens=4)
    >>> trace.last.before, trace.last.visual  # tokens of the picture: before, and in each layer
    ((16,), [(16,), (16,), (4,), (4,)])
    >>> trace.last.kept().tolist()  # which are left, row by row of the picture
    [0, 1, 3, 5]

    Parameters
    ----------
    model : Module or Loaded
        A vision-language model of ``engine.sites.MODELS``, or an image transformer of ``vit.site.BLOCKS``. It is as it
        was after the block, also after an exception.
    method : str
        A name of ``METHODS``, modifiers behind it: ``"fastv+debias"``; see ``named``.
    keep : float or int
        Share of each prompt's visual tokens that is left, averaged over the decoder layers behind the method's first
        choice, in (0, 1]; or, as an int, their number. Warns where a prompt has fewer, or the share is less than one of
        them. Of image transformers the patches in the attention of blocks.
    positions : {"keep", "compact"}
        Tokens keep their positions, or are numbered anew.
    pictures : tuple of (tuple of Geometry) or None, optional
        Of each prompt of the batch, where its visual tokens are in its pictures: what debiasing of padding needs.
    ids : sequence of str, optional
        A name of each prompt of the batch, by which what is random is drawn: a prompt gets the same in any batch.
        Default: prompts are numbered through the block.
    saved : path, optional
        Folder that ``attn prune --save`` wrote: it names method, budget, positions and settings. Warns where the model
        is another one.
    **settings
        Of the method and its modifiers.

    Yields
    ------
    PruneTrace; of an image transformer, ``vit.stages.ImageTrace``

    Raises
    ------
    UsageError
        If model, method, setting or budget cannot be used.
    """
    if saved is not None:
        if settings or (method, keep, positions) != ("divprune", 0.25, "keep"):
            raise UsageError("saved: the folder names method, keep, positions and settings. Leave them out.")
        method, keep, positions, settings = _of_folder(model, saved)
    network = model.model if isinstance(model, Loaded) else model
    # a vision-language model may hold an image transformer, such as DINOv2: what is pruned is its language model
    if not is_vision_language(network) and (is_image_transformer(network) or class_of(method)):
        with image_pruner_of(method, settings).applied(image_site(network), keep_of(keep)) as images:
            yield images
        return
    site = site_of(model)
    budget = keep_of(keep)
    stages = [_told(stage, budget) for stage in pruner_of(method, settings).stages(site, budget)]
    with pruned(site.model, stages, positions=positions, site=site, pictures=pictures, ids=ids) as trace:
        yield trace


def _told(stage: PruneStage, keep: Keep) -> PruneStage:
    """A stage that warns where a prompt cannot be cut to what was asked for, and notes it in the trace."""

    def choose(moment: Moment) -> list[TokenChoice]:
        for text in dict.fromkeys(text for tokens in moment.prompts.counts for text in keep.remarks(tokens)):
            if text not in moment.prompts.notes:
                moment.prompts.note(text)
                warnings.warn(text, stacklevel=2)
        return stage.choose(moment)

    return replace(stage, choose=choose)


def _of_folder(
    model: nn.Module | Loaded, saved: str | Path
) -> tuple[str, float | int, Positions, dict[str, Any]]:  # fmt: skip
    """What a folder says of a call of ``prune``."""
    kept = read_saved(saved)
    network = model.model if isinstance(model, Loaded) else model
    fingerprint = model.fingerprint if isinstance(model, Loaded) else ""
    for text in kept.differences(shape_in_words(network), fingerprint):
        warnings.warn(f"{saved}: {text}", stacklevel=5)
    return kept.method, KEEP if kept.keep is None else kept.keep, kept.positions, dict(kept.settings)


def keep_of(value: float | int) -> Keep:
    """A budget as a value. Raises ``UsageError`` if it is no share in (0, 1] and no number from 1."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return Keep(count=value)
    if isinstance(value, float) and 0 < value <= 1:
        return Keep(share=value)
    raise UsageError(f"keep: {value!r} is no share above 0 and up to 1, and no number of tokens.")
