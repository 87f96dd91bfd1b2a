"""Conversations of the user, and drawn ones, as batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import InputError
from ...fit.epochs import epoch_rows
from ...models.chat import ChatTokens, chat_tokens, check_template, read_conversations
from ...options import OptionError
from .options import FocusOptions
from .step import Dialogues
from .tasks import TaskSize, draw

AT_ONCE = 8
"""Conversations of a batch where nothing is learnt, """
_SALT = 99001
"""First number of the seeds of training."""
DEVELOPMENT, TEST = 99002, 99003
"""First numbers of the seeds of what is judged while a model learns, and in the end."""


class DrawnSource:
    """Sequences of a drawn task; see ``recipe.DialogueSource``."""

    def __init__(self, size: TaskSize, seed: int, batch: int, judged: int) -> None:
        self.size, self.seed, self.count, self.judged = size, seed, batch, judged

    def batch(self, step: int) -> Dialogues:
        return draw((_SALT, self.seed, step), self.count, self.size)

    def held_out(self) -> Sequence[Dialogues]:
        return [draw((DEVELOPMENT,), self.judged, self.size)]


@dataclass(frozen=True, slots=True)
class ChatSource:
    """Conversations of a file; see ``recipe.DialogueSource``.

    Parameters
    ----------
    trained, kept : sequence of ChatTokens
        What is trained on, and what is held out.
    batch_size, seed : int
    pad : int
    """

    trained: Sequence[ChatTokens]
    kept: Sequence[ChatTokens]
    batch_size: int
    seed: int
    pad: int

    def batch(self, step: int) -> Dialogues:
        rows = epoch_rows(step, self.batch_size, len(self.trained), self.seed)
        return padded([self.trained[row] for row in rows], self.pad)

    def held_out(self) -> Sequence[Dialogues]:
        ordered = sorted(self.kept, key=lambda one: len(one.tokens))
        size = min(self.batch_size, AT_ONCE)
        return [padded(ordered[first : first + size], self.pad) for first in range(0, len(ordered), size)]


def padded(rows: Sequence[ChatTokens], pad: int) -> Dialogues:
    """Conversations as one batch, padded on the right."""
    length = max(len(row.tokens) for row in rows)
    tokens = torch.full((len(rows), length), pad)
    answer, real = (torch.zeros(len(rows), length, dtype=torch.bool) for _ in range(2))
    for number, row in enumerate(rows):
        here = slice(0, len(row.tokens))
        tokens[number, here], answer[number, here] = torch.tensor(row.tokens), torch.tensor(row.answer)
        real[number, here] = True
    return Dialogues(tokens, answer, real)


def chats_of(path: Path, tokeniser: Any, options: FocusOptions, limit: int | None) -> tuple[ChatSource, list[str]]:
    """The conversations of a file, divided by the seed, and what the user should know of them.

    Parameters
    ----------
    path : Path
    tokeniser
        Of transformers, with a chat template.
    options : FocusOptions
    limit : int or None
        Tokens that the model reads.

    Raises
    ------
    InputError
        If the file cannot be read, holds no conversations, or a conversation is none.
    OptionError
        If the model has no chat template, or too few conversations are left.
    """
    check_template(tokeniser, str(options.model))
    most = min(options.max_length, limit or options.max_length)
    kept, cut, idle, differ, count = [], 0, 0, 0, 0
    for conversation in read_conversations(path):
        one = chat_tokens(path, conversation, tokeniser)
        count += 1
        differ += not one.whole
        if len(one.tokens) > most:
            if options.truncate == "error":
                what = f"{conversation.place} is of {len(one.tokens)} tokens, the most are {most}"
                raise InputError(str(path), what, "Split it, or say where longer ones are cut")
            cut += 1
            place = slice(most) if options.truncate == "right" else slice(-most, None)
            one = ChatTokens(one.tokens[place], one.answer[place], one.whole)
        if any(one.answer[1:]):
            kept.append(one)
        else:
            idle += 1
    if not count:
        raise InputError(str(path), "holds no conversations", 'Write one a line: {"messages": [...]}')
    warnings = [
        text
        for number, text in (
            (cut, f"{cut} of {count} conversations were longer than {most} tokens and cut ({options.truncate})"),
            (idle, f"{idle} of {count} conversations were left out: nothing in them is left to learn"),
            (differ, f"{differ} of {count} conversations have other tokens message by message than whole; the former "
                     "are trained on"),
        )
        if number
    ]  # fmt: skip
    held = max(1, round(options.held_out * len(kept)))
    if len(kept) - held < 1:
        raise OptionError(
            f"{{data}}: {path} has {len(kept)} conversations with something to learn; two are the least, one of which "
            "is held out."
        )
    order = np.random.default_rng((DEVELOPMENT, options.compute.seed)).permutation(len(kept)).tolist()
    pad = getattr(tokeniser, "pad_token_id", None)
    source = ChatSource(
        [kept[n] for n in order[held:]], [kept[n] for n in order[:held]], options.batch, options.compute.seed,
        0 if pad is None else int(pad),
    )  # fmt: skip
    return source, warnings
