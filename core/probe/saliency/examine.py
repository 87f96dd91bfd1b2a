"""One prompt looked at: the answer as it is, the answer with mitigations, and whether the map can be believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ...models.loaded import Loaded
from ...options import OptionError
from ...prune.vlm.words import unknown_words
from ...report.sections import TrustLine
from ..trust.lines import UNTRAINED, weights_line
from ..trust.randomised import randomised
from .decode import Decoding, Floats, GroundedAnswer, decode
from .locore import Locore
from .matrices import default_layers
from .one_row import OneRow
from .options import SaliencyOptions
from .question import SpannedPrompt, decoder_of, tokeniser_of
from .sgrs import Sgrs


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found.

    Parameters
    ----------
    asked : SpannedPrompt
    how : Decoding
        Of ``plain``.
    plain : GroundedAnswer
    mitigated : GroundedAnswer or None
    trust : tuple of TrustLine
    """

    asked: SpannedPrompt
    how: Decoding
    plain: GroundedAnswer
    mitigated: GroundedAnswer | None = None
    trust: tuple[TrustLine, ...] = ()


def decoding_of(loaded: Loaded, options: SaliencyOptions) -> Decoding:
    """How the model's own answer is looked at.

    Raises
    ------
    OptionError
        If a layer that is named is not in the model, or ``UsageError``: its attention is of an unknown class.
    """
    depth = OneRow(loaded.model, decoder_of(loaded)).depth
    for name in ("layers", "locore_layers"):
        if beyond := [layer for layer in getattr(options, name) if layer >= depth]:
            raise OptionError(f"{{{name}}}: this model has layers 0 to {depth - 1}, not {beyond[0]}.")
    sgrs = Sgrs(options.candidates, options.tries, options.alpha, options.history, options.temperature)
    return Decoding(
        tuple(sorted(options.layers)) or default_layers(depth), options.norm, options.signed, sgrs,
        longest=options.max_new_tokens, seed=options.seed,
    )  # fmt: skip


def mitigated_by(how: Decoding, options: SaliencyOptions) -> Decoding:
    """The same with what the options mitigate by."""
    locore = Locore(options.beta, options.window, options.mode, tuple(sorted(options.locore_layers)))
    return replace(
        how, rejects="sgrs" in options.mitigate, released=options.released, first=options.locore_first,
        locore=locore if "locore" in options.mitigate else None,
    )  # fmt: skip


def examine(
    loaded: Loaded, asked: SpannedPrompt, options: SaliencyOptions, step: Callable[[int, int], None]
) -> Examined:
    """Decode, look, decode again.

    Raises
    ------
    UsageError
        See ``decoding_of`` and ``decode``.
    """
    how = decoding_of(loaded, options)
    forced = None if options.answer is None else answer_ids(loaded, options.answer)
    plain = decode(loaded, asked, how, forced=forced, step=step)
    mitigated = decode(loaded, asked, mitigated_by(how, options), step=step) if options.mitigate else None
    return Examined(asked, how, plain, mitigated, _trust(loaded, asked, how, plain, step) if options.trust else ())


def answer_ids(loaded: Loaded, answer: str) -> list[int]:
    """Tokens of an answer that is given. Raises ``UsageError`` for one that has none, or words without a token."""
    if unknown := unknown_words(tokeniser_of(loaded), answer):
        raise OptionError(f"{{answer}}: the model does not know {', '.join(repr(word) for word in unknown)}.")
    ids = list(tokeniser_of(loaded)(answer, add_special_tokens=False)["input_ids"])
    if not ids:
        raise OptionError("{answer}: the model's tokeniser makes no token of it.")
    return ids


def _trust(
    loaded: Loaded, asked: SpannedPrompt, how: Decoding, plain: GroundedAnswer, step: Callable[[int, int], None]
) -> tuple[TrustLine, ...]:
    """The same answer followed by models with randomised weights."""
    ids, untrained = [token.id for token in plain.tokens], []
    for number in range(UNTRAINED):
        with randomised(loaded.model, number):
            untrained.append(prompt_map(asked, decode(loaded, asked, how, forced=ids)))
        step(number + 1, UNTRAINED)
    return (weights_line(prompt_map(asked, plain), untrained),)


def prompt_map(asked: SpannedPrompt, answer: GroundedAnswer) -> Floats:
    """Normalised saliency of each token on the prompt, [G, T0]: what every token sees."""
    return np.stack([token.normalised[: len(asked.ids)] for token in answer.tokens])
