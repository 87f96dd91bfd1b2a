"""CARVE: the model is asked again about what its attention for the question singles out, magnified.

Paper: "Focusing by Contrastive Attention: Enhancing VLMs' Visual Reasoning", arXiv 2509.06461. Specification:
methods/carve.md.

It prunes pixels, not tokens, so it is no ``Pruner``: the command asks ``Carve(...).run(loaded, picture, prompt)``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...models.loaded import Loaded
from ...models.pictures import ColourPicture
from ...options import OptionError, check
from ..engine.sites import VisionLanguageSite, site_of
from ..sheets import smooth_on_pixels
from ..vlm.ask import PreparedPrompt, answer, prepare
from ..vlm.words import unknown_words
from .capture import newest_rows
from .maps import attention_entropy, check_layers, clipped, contrast, default_layers, fused, has_contrast
from .mask import PixelBox, box_of, magnified, mask_of, masked
from .settings import GENERAL, SUFFIX, CarveSettings

PLAIN = "what is there"
"""The instruction for models of a few words, such as the embedded one, which do not know those of ``GENERAL``."""


@dataclass(frozen=True, slots=True)
class Look:
    """One answer, and what each of its tokens attended to.

    Parameters
    ----------
    text : str
    attention : ndarray, shape (S, L, V)
        Of every step and layer to the visual tokens, mean over heads.
    prepared : PreparedPrompt
    passes : int
        Forward passes of the model.
    seconds : float
    warnings : tuple of str
    """

    text: str
    attention: NDArray[np.float64]
    prepared: PreparedPrompt
    passes: int
    seconds: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Carved:
    """What ``Carve.run`` came to.

    Parameters
    ----------
    before : str
        The answer about the whole picture.
    after : str or None
        The answer with the refined one; None where there was no contrast.
    ratio : ndarray, shape (V,)
        Attention for the question over attention in general, fused, of each visual token.
    values : ndarray, shape (h, w)
        The same on the pixels of the picture as it was read (``ColourPicture.pixels``); NaN where the model saw none.
    mask : ndarray of bool, shape (h, w), or None
    box : (x0, y0, x1, y1) or None
        Around the mask, in pixels of the user's file, the last two behind the end.
    crop : ndarray, shape (3, h', w'), float32, or None
        What the model was shown the second time.
    entropy_raw, entropy : ndarray, shape (L,)
        Of the attention of the last step to the visual tokens, layer by layer, in nats: as it is, and renormalised.
    layers : tuple of int
        Whose ratios were fused.
    steps : int
        Common steps of both answers.
    tokens : int
        Visual tokens V.
    tokens_after : int or None
        Visual tokens of the last question.
    passes : int
        Forward passes of the model, those of the general look included where this run made them.
    seconds : float
    look, general : Look
    warnings : tuple of str
        With the reason where there was no contrast.
    """

    before: str
    after: str | None
    ratio: NDArray[np.float64]
    values: NDArray[np.float64]
    mask: NDArray[np.bool_] | None
    box: PixelBox | None
    crop: NDArray[np.float32] | None
    entropy_raw: NDArray[np.float64]
    entropy: NDArray[np.float64]
    layers: tuple[int, ...]
    steps: int
    tokens: int
    tokens_after: int | None
    passes: int
    seconds: float
    look: Look = field(repr=False)
    general: Look = field(repr=False)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Carve(CarveSettings):
    """The method with its settings.

    >>> carve = Carve()  # doctest: +SKIP
    >>> general = carve.look_generally(loaded, picture)  # once for a picture
    >>> results = [carve.run(loaded, picture, question, general=general) for question in questions]
    """

    def __post_init__(self) -> None:
        try:
            check(self)
        except OptionError as error:
            raise UsageError(f"carve: {error}") from None

    def look_generally(self, loaded: Loaded, picture: ColourPicture) -> Look:
        """What the model looks at when nothing is asked for: once for a picture, whatever is asked about it."""
        instruction, suffix, warnings = self.said(loaded)
        steps = 1 if self.steps == "first" else self.max_new_tokens
        look = self._look(loaded, prepare(loaded, [picture], instruction + suffix), steps)
        return replace(look, warnings=warnings)

    def run(self, loaded: Loaded, picture: ColourPicture, prompt: str, *, general: Look | None = None) -> Carved:
        """Ask, find what is asked about, ask again.

        Parameters
        ----------
        loaded : Loaded
            Of ``load_model(name, "vision-language")``.
        picture : ColourPicture
        prompt : str
            The question, without the suffix.
        general : Look, optional
            Of ``look_generally`` for the same picture; without it, it is made.

        Raises
        ------
        UsageError
            If the model is unknown, has no such layers, or the picture has no visual tokens.
        """
        start, passes = time.perf_counter(), 0
        site = site_of(loaded.model)
        layers = self.layers_of(site)
        if general is None:
            general = self.look_generally(loaded, picture)
            passes += general.passes
        prompt += self.said(loaded)[1]
        look = self._look(loaded, prepare(loaded, [picture], prompt), self.max_new_tokens)
        passes += look.passes
        if look.attention.shape[2] != general.attention.shape[2]:
            raise UsageError("the general look is one at another picture: its visual tokens are not as many.")
        ratios = contrast(look.attention[:, layers], general.attention[:, layers], self.lam)
        ratio = fused(ratios, self.steps)
        if self.clip is not None:
            ratio = clipped(ratio, self.clip)
        height, width = picture.pixels.shape[1:]
        values = smooth_on_pixels(look.prepared.pictures[0], ratio, (height, width))
        raw, entropy = attention_entropy(look.attention[-1])
        warnings = list(dict.fromkeys((*picture.warnings, *look.prepared.warnings, *general.warnings)))
        mask = box = crop = after = tokens_after = None
        if has_contrast(ratio[look.prepared.pictures[0].patches().numpy()]):
            mask = mask_of(values, self.share, self.regions, rank=self.rank, regions=self.count)
            inner = box_of(mask)
            rest = picture.pixels if self.fill == "none" else masked(picture.pixels, mask, self.fill)
            crop = magnified(rest, inner, (height, width), self.enlarge)
            refined = ColourPicture(crop, (crop.shape[1], crop.shape[2]))
            shown = [picture, refined] if self.final == "both" else [refined]
            last = prepare(loaded, shown, prompt)
            spoken = answer(loaded, last, max_new_tokens=self.max_new_tokens)
            after, tokens_after = spoken.text, last.tokens
            passes += len(spoken.ids)
            box = _in_file(inner, picture)
        else:
            warnings.append(
                "no contrast: the question draws no more attention to one place than the general instruction does, so "
                "nothing was cut out and the model was not asked again"
            )
        return Carved(
            look.text, after, ratio, values, mask, box, crop, raw, entropy, layers, len(ratios), len(ratio),
            tokens_after, passes, time.perf_counter() - start, look, general, tuple(warnings),
        )  # fmt: skip

    def layers_of(self, site: VisionLanguageSite) -> tuple[int, ...]:
        """The layers whose ratios are added. Raises ``UsageError`` for one that is not in the model."""
        layers = self.layers or default_layers(site.depth)
        check_layers(layers, site.depth)
        return layers

    def said(self, loaded: Loaded) -> tuple[str, str, tuple[str, ...]]:
        """The general instruction, what is said behind it and behind the question, and what to warn of.

        Raises
        ------
        UsageError
            If the model does not know the words that were given.
        """
        tokeniser = loaded.processor.joint.tokenizer
        warnings = []
        instruction, suffix = self.general, self.suffix
        if instruction is None:
            instruction = PLAIN if unknown_words(tokeniser, GENERAL) else GENERAL
            if instruction is PLAIN:
                warnings.append(f"the model does not know the words of {GENERAL!r}: {PLAIN!r} was asked instead")
        if suffix is None:
            suffix = "" if unknown_words(tokeniser, SUFFIX) else SUFFIX
            if not suffix:
                warnings.append(f"the model does not know the words of {SUFFIX!r}: nothing is said behind the question")
        for name, text in (("general", instruction), ("suffix", suffix)):
            if unknown_words(tokeniser, text):
                raise UsageError(f"carve: {name}: the model does not know the words of {text!r}. Give others.")
        return instruction, suffix, tuple(warnings)

    def _look(self, loaded: Loaded, prepared: PreparedPrompt, steps: int) -> Look:
        start, site = time.perf_counter(), site_of(loaded.model)
        with newest_rows(site, tuple(range(site.depth)), prepared.inputs) as seen:
            spoken = answer(loaded, prepared, max_new_tokens=steps)
        return Look(spoken.text, seen.maps, prepared, seen.passes, time.perf_counter() - start)


def _in_file(box: PixelBox, picture: ColourPicture) -> PixelBox:
    """A box in pixels of the user's file, of which a reduced picture was read: all that it touches."""
    down, across = (size / read for size, read in zip(picture.size, picture.pixels.shape[1:], strict=True))
    x0, y0, x1, y1 = box
    return int(x0 * across), int(y0 * down), -int(-x1 * across // 1), -int(-y1 * down // 1)
