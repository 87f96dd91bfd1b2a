"""Pictures and a question to what a vision-language model takes, and its answer."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ...errors import InputError, UsageError
from ...memory import FIX, budget
from ...models.footprint import prompt_bytes
from ...models.geometry import Geometry
from ...models.hf import quiet
from ...models.loaded import Loaded
from ...models.pictures import ColourPicture, eight_bits
from ...models.visual import FRAMES, resized, shown, visual_geometry
from ...options import OptionError, about_file
from ...sizes import show_bytes
from ...text import reason_of
from ..engine.sites import site_of
from .greedy import greedy
from .template import templated
from .video import video_inputs
from .words import check_words

_ROWS = ("input_ids", "attention_mask", "mm_token_type_ids")
"""Inputs with a row for each token, [1, N]."""


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """One question about one or several pictures.

    Parameters
    ----------
    inputs : dict of Tensor
        What the model takes: ``input_ids`` [1, N], ``attention_mask``, ``pixel_values``, …; on its device.
    pictures : tuple of Geometry
        Of each picture, in pixels of the user's file. Visual tokens are numbered through all pictures, and ``count``
        of each is that of the prompt.
    prompt : str
        The question with the template around it; each picture is one token in it.
    warnings : tuple of str
    """

    inputs: dict[str, Tensor]
    pictures: tuple[Geometry, ...]
    prompt: str
    warnings: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """Visual tokens."""
        return self.pictures[0].count


@dataclass(frozen=True, slots=True)
class PreparedBatch:
    """Several questions side by side; shorter ones have padding in front.

    Parameters
    ----------
    inputs : dict of Tensor
        ``input_ids`` [B, N], …
    pictures : tuple of tuple of Geometry
        Of each question.
    """

    inputs: dict[str, Tensor]
    pictures: tuple[tuple[Geometry, ...], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says.

    Parameters
    ----------
    text : str
        Without special tokens, stripped.
    ids : Tensor of int64 [G]
        Chosen one by one, each the most probable; the one that ends the answer included.
    logits : Tensor [V], float32
        Behind the last token of the prompt.
    log_probabilities : Tensor [G], float32
        Of ``ids``, in nats.
    state : Tensor [D], float32
        Of the last token of the prompt, behind the last normalisation.
    """

    text: str
    ids: Tensor
    logits: Tensor
    log_probabilities: Tensor
    state: Tensor


def prepare(loaded: Loaded, pictures: Sequence[ColourPicture], prompt: str, *, video: bool = False) -> PreparedPrompt:
    """A question about pictures as the input of a vision-language model.

    Parameters
    ----------
    loaded : Loaded
        Of ``load_model(name, "vision-language")``.
    pictures : sequence of ColourPicture
        In front of the question, in this order.
    prompt : str
        The question.
    video : bool
        They are frames of one video, at even distances: Qwen2-VL and Qwen2.5-VL alone take one. Two frames share their
        tokens; each frame has its own ``Geometry`` all the same.

    Raises
    ------
    UsageError
        If the class is unknown, the model has no token for a word of the question, a picture is empty or cannot be
        prepared (Qwen2-VL refuses sides of more than 200 to 1), it would take too much memory, or processor and model
        are not of one piece.
    """
    site_of(loaded.model)  # refuses other classes
    processor = loaded.processor.joint
    if not pictures:
        raise UsageError("a question needs a picture.")
    if video and loaded.family not in FRAMES:
        raise UsageError(f"{loaded.family} takes no videos; {', '.join(FRAMES)} do.")
    photos = [_photo(picture) for picture in pictures]
    sizes = [(photo.height, photo.width) for photo in photos]
    marks = [processor.video_token] if video else [processor.image_token] * len(photos)
    text, warnings = templated(loaded.family, processor, marks, prompt)
    warnings += check_words(processor.tokenizer, prompt)
    special = not _starts(text, processor.tokenizer)
    try:
        with quiet():
            if video:
                data, places = video_inputs(loaded, photos, text, special)
            else:
                _check_pixels(processor.image_processor, sizes)
                data = processor(images=photos, text=text, return_tensors="pt", add_special_tokens=special)
                places = visual_geometry(loaded.model, processor.image_processor, data, sizes)
    except UsageError as error:
        raise UsageError(f"{loaded.family}: {error}") from None
    except Exception as error:  # of any kind: each processor refuses in its own words
        listed = ", ".join(f"{h} x {w}" for h, w in sizes)
        raise UsageError(f"{loaded.family} takes no picture of {listed} pixels ({reason_of(error)}).") from None
    _check_whole(loaded, data["input_ids"], places[0].count)
    _check_room(loaded.model, data)
    if (length := data["input_ids"].shape[1]) > (table := _positions(loaded.model)):
        warnings.append(f"the prompt has {length} tokens with its pictures; the model was made for {table}")
    warnings += [warning for picture in pictures for warning in picture.warnings]
    warnings += [
        f"the model sees {shown(place):.0%} of the picture; the rest is cut off by its processor"
        for place in places
        if shown(place) < 0.995
    ]
    inputs = {name: _placed(value, loaded.model) for name, value in data.items()}
    own = tuple(place.of(picture.size) for place, picture in zip(places, pictures, strict=True))
    return PreparedPrompt(inputs, own, text, tuple(dict.fromkeys(warnings)))


def prepare_file(loaded: Loaded, picture: ColourPicture, prompt: str, name: object) -> PreparedPrompt:
    """A question about the picture of a file. Raises ``InputError`` for one that the model does not take."""
    with about_file(name):
        prepared = prepare(loaded, [picture], prompt)
    if not prepared.tokens:
        raise InputError(str(name), f"{loaded.family} makes no visual token of it", "Give a larger picture")
    return prepared


def batch(loaded: Loaded, prepared: Sequence[PreparedPrompt]) -> PreparedBatch:
    """Questions side by side, padding in front of shorter ones."""
    pad = loaded.processor.joint.tokenizer.pad_token_id
    inputs: dict[str, Tensor] = {}
    for name in prepared[0].inputs:
        values = [each.inputs[name] for each in prepared]
        if name in _ROWS:
            fill = (pad or 0) if name == "input_ids" else 0  # behind a mask any id does
            longest = max(value.shape[1] for value in values)
            values = [F.pad(value, (longest - value.shape[1], 0), value=fill) for value in values]
        elif name == "pixel_attention_mask" or values[0].ndim == 5:  # [pictures or 1, tiles, ...]
            most = max(value.shape[1] for value in values)
            values = [_more_tiles(value, most) for value in values]  # missing tiles are zeros: models leave them out
        inputs[name] = torch.cat(values)
    return PreparedBatch(inputs, tuple(each.pictures for each in prepared))


def answer(loaded: Loaded, prepared: PreparedPrompt, *, max_new_tokens: int) -> Answer:
    """The answer to one question, token by token the most probable one: no sampling, no penalties.

    It has at most as many tokens as the model's own ``generation_config`` allows, where that says it: some models
    were trained to answer in one.
    """
    return answers(loaded, batch(loaded, [prepared]), max_new_tokens=max_new_tokens)[0]


def answers(loaded: Loaded, questions: PreparedBatch, *, max_new_tokens: int) -> tuple[Answer, ...]:
    """``answer`` of each of a batch.

    Raises
    ------
    UsageError
        If the model cannot run: weights that are no numbers, parts that do not fit, too little memory.
    """
    found = greedy(loaded.model, questions.inputs, max_new_tokens=max_new_tokens)
    return tuple(
        Answer(said(loaded, one.ids), one.ids, one.logits[0], one.log_probabilities, one.state) for one in found
    )


def said(loaded: Loaded, ids: Tensor) -> str:
    """Tokens as text, without special ones."""
    text: str = loaded.processor.joint.tokenizer.decode(ids, skip_special_tokens=True)
    return text.strip()


def _photo(picture: ColourPicture) -> Image.Image:
    """As processors take it: 8 bits a channel. Raises ``UsageError`` where there is nothing to see."""
    pixels = picture.pixels
    if pixels.ndim != 3 or pixels.shape[0] != 3 or 0 in pixels.shape:
        raise UsageError(f"a picture is [3, H, W] with one pixel at least, this one is {list(pixels.shape)}.")
    if not np.isfinite(pixels).all():
        raise UsageError("a picture has pixels that are no numbers.")
    return Image.fromarray(eight_bits(pixels))


def _check_whole(loaded: Loaded, ids: Tensor, features: int) -> None:
    """Refuse a processor that does not make what its model takes."""
    visual = torch.isin(ids, torch.tensor(site_of(loaded.model).tokens))
    if int(visual.sum()) != features:
        raise OptionError(
            f"{{model}}: processor and model are not of one piece: {int(visual.sum())} tokens in the prompt stand for "
            f"{features} features of pictures. Copy its folder again."
        )
    known = loaded.model.get_input_embeddings().num_embeddings
    if int(ids.masked_fill(visual, 0).max()) >= known:
        raise OptionError(f"{{model}}: its tokeniser gives token {int(ids.max())}, but it knows {known} tokens.")


def _check_room(model: Any, inputs: Mapping[str, Tensor]) -> None:
    """Refuse a prompt that does not fit into the budget of memory: pictures of very many tiles."""
    length = inputs["input_ids"].shape[1]
    pixels = sum(value.numel() * value.element_size() for value in inputs.values() if value.is_floating_point())
    if (need := prompt_bytes(model.config, model.dtype, length) + pixels) > budget():
        raise UsageError(
            f"the prompt has {length} tokens with its pictures and takes about {show_bytes(need)} of memory, more than "
            f"the budget of {show_bytes(budget())}. {FIX}."
        )


def _positions(model: Any) -> int:
    """Tokens that a model was made for; without end where it does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize


def _starts(text: str, tokeniser: Any) -> bool:
    """The template has written the token that begins a text."""
    return bool(tokeniser.bos_token) and text.startswith(tokeniser.bos_token)


def _check_pixels(images: Any, sizes: Sequence[tuple[int, int]]) -> None:
    """Refuse a picture whose shorter side would be resized to that of the model, and so the longer one without end."""
    if "shortest_edge" not in images.size or "longest_edge" in images.size or not getattr(images, "do_center_crop", 0):
        return
    need = max(3 * 9 * h * w for h, w in (resized(images, size) for size in sizes))  # bytes, and the same as float64
    if need > budget():
        raise UsageError(
            f"a picture of {sizes[0][0]} x {sizes[0][1]} pixels takes {show_bytes(need)} when it is resized, more than "
            f"the budget of {show_bytes(budget())}. {FIX}."
        )


def _placed(value: Tensor, model: Any) -> Tensor:
    return value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)


def _more_tiles(value: Tensor, count: int) -> Tensor:
    """[pictures, tiles, ...] with zeros behind."""
    return torch.cat([value, value.new_zeros(len(value), count - value.shape[1], *value.shape[2:])], 1)
