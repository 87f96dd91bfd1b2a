"""What a model is asked: a picture with a question, or a text, and which of its tokens are what.

Spans: system [0, S), image [S, S + I), prompt text from there on (methods/lvlms-saliency.md, section 3), read from the
ids and never hard-coded. Marks between parts of one picture count as image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError, UsageError, decoding
from ...io.kinds import open_regular
from ...memory import FIX, budget, read_within
from ...models.footprint import prompt_bytes
from ...models.geometry import Geometry
from ...models.loaded import Loaded
from ...models.pictures import ColourPicture
from ...options import OptionError
from ...prune.engine.prompts import is_visual
from ...prune.engine.sites import is_vision_language, site_of
from ...prune.vlm.ask import prepare_file
from ...prune.vlm.words import check_words
from ...sizes import show_bytes

SPANS = ("system", "image", "prompt", "output")


@dataclass(frozen=True, slots=True)
class SpannedPrompt:
    """One prompt.

    Parameters
    ----------
    inputs : dict of Tensor
        What the model takes; ``input_ids`` [1, T0].
    system, behind : int
        S, and S + I: the first token behind the image; S where there is none.
    geometry : Geometry or None
        Of the picture's tokens, ``visual`` being where they stand in the prompt.
    visual : Tensor of int64 [V]
    warnings : tuple of str
    """

    inputs: dict[str, Tensor]
    system: int
    behind: int
    geometry: Geometry | None
    visual: Tensor
    warnings: tuple[str, ...] = ()

    @property
    def ids(self) -> list[int]:
        """T0 tokens."""
        return [int(token) for token in self.inputs["input_ids"][0]]

    def edges(self, tokens: int) -> tuple[int, ...]:
        """Where each of ``SPANS`` ends among so many tokens."""
        return self.system, self.behind, len(self.ids), tokens

    def answered(self, answer: Tensor) -> dict[str, Tensor]:
        """The inputs with an answer [G] behind them."""
        inputs = dict(self.inputs)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], answer[None].to(inputs["input_ids"])], 1)
        if (kinds := inputs.get("mm_token_type_ids")) is not None:  # 0 is text
            inputs["mm_token_type_ids"] = torch.cat([kinds, kinds.new_zeros(1, len(answer))], 1)
        return inputs


def about_picture(loaded: Loaded, picture: ColourPicture, prompt: str, name: object) -> SpannedPrompt:
    """A question about the picture of a file. Raises ``InputError``, ``UsageError``: see ``prepare_file``."""
    asked = prepare_file(loaded, picture, prompt, name)
    visual = is_visual(site_of(loaded), asked.inputs["input_ids"])[0].nonzero().flatten()
    system, behind = int(visual[0]), int(visual[-1]) + 1
    return SpannedPrompt(asked.inputs, system, behind, asked.pictures[0], visual, asked.warnings)


def about_text(loaded: Loaded, text: str, *, templated: bool) -> SpannedPrompt:
    """A text for a model of text alone.

    Parameters
    ----------
    loaded : Loaded
        Of ``load_model(name, "causal")``.
    text : str
    templated : bool
        Put it into the model's chat template, where it has one; what is in front of it there is its system part.

    Raises
    ------
    UsageError
        If the text is empty, too long for the memory, or has words that the model has no token for.
    """
    if not text.strip():
        raise UsageError("the text is empty.")
    tokeniser, model = loaded.processor.tokeniser, loaded.model
    warnings = check_words(tokeniser, text)
    whole, special = text, True
    if templated and getattr(tokeniser, "chat_template", None):
        messages = [{"role": "user", "content": text}]
        whole = tokeniser.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        special = False  # the template has written what begins a text
        if text.strip() not in whole:
            raise OptionError("{model}: its chat template leaves out the question.")
    ids, offsets = _encoded(tokeniser, whole, special)
    system = next((n for n, (_, end) in enumerate(offsets) if end > max(0, whole.find(text.strip()))), 0)
    if (need := prompt_bytes(model.config, model.dtype, len(ids))) > budget():
        raise UsageError(
            f"the text has {len(ids)} tokens and takes about {show_bytes(need)} of memory, more than the budget of "
            f"{show_bytes(budget())}. {FIX}."
        )
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if most and len(ids) > most:
        raise UsageError(f"the text has {len(ids)} tokens; the model was made for {most}. Shorten it.")
    inputs = {"input_ids": torch.tensor([ids], device=model.device)}
    return SpannedPrompt(inputs, system, system, None, torch.zeros(0, dtype=torch.int64), tuple(warnings))


def _encoded(tokeniser: Any, text: str, special: bool) -> tuple[list[int], list[tuple[int, int]]]:
    """Tokens, and the letters that each stands for; none known of a tokeniser in Python: no token is system then."""
    if getattr(tokeniser, "is_fast", False):
        found = tokeniser(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
        return list(found["input_ids"]), list(found["offset_mapping"])
    return list(tokeniser(text, add_special_tokens=special, verbose=False)["input_ids"]), []


def text_of(path: Path, prompt: str | None) -> str:
    """A text file, and the prompt behind it. Raises ``InputError`` if it is no text, or larger than the memory."""
    with open_regular(path) as file:
        raw = read_within(file, path, what="holds")
    with decoding(path, "text (UTF-8)", "Save it as UTF-8"):
        text = raw.decode("utf-8-sig")
    if not text.strip():
        raise InputError(path, "is empty", "Give a file with text in it")
    return f"{text.rstrip()}\n\n{prompt}" if prompt else text


def tokeniser_of(loaded: Loaded) -> Any:
    """The tokeniser, with or without a processor of pictures around it."""
    return loaded.processor.joint.tokenizer if loaded.processor.joint is not None else loaded.processor.tokeniser


def decoder_of(loaded: Loaded) -> Any:
    """The language model inside a model."""
    return site_of(loaded).text if is_vision_language(loaded.model) else loaded.model
