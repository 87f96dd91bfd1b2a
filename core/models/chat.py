"""Conversations of a file, and a conversation as tokens of which some are an assistant's.

Specification: methods/focusft.md, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..io.records import json_lines
from ..io.tables import read_parquet
from ..options import OptionError
from ..text import reason_of

FUNCTIONS = ("tool", "function")
"""Roles of what functions give back; several in a row are one turn."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation of a file.

    Parameters
    ----------
    place : str
        ``"line 7"`` or ``"row 7"``.
    messages : sequence of mapping
        With ``role`` and ``content``.
    settings : mapping
        For the chat template: ``tools``, ``enable_thinking``.
    """

    place: str
    messages: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ChatTokens:
    """A conversation as tokens.

    Parameters
    ----------
    tokens : list of int
    answer : list of bool
        Of what an assistant says, with the end of its turn.
    whole : bool
        The tokens are those of the conversation rendered at once.
    """

    tokens: list[int]
    answer: list[bool]
    whole: bool


def read_conversations(path: Path) -> Iterator[Conversation]:
    """The conversations of a JSONL or parquet file, in their order.

    Raises
    ------
    InputError
        If the file cannot be read, a row has no ``messages``, or what it has are none.
    """
    if path.suffix.lower() == ".parquet":
        rows: Iterator[tuple[str, Mapping[str, Any]]] = ((f"row {n + 1}", cells) for n, cells in read_parquet(path))
    else:
        rows = json_lines(path)
    for place, record in rows:
        yield Conversation(place, _messages(path, place, record), _settings(record))


def _messages(path: Path, place: str, record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    messages = record.get("messages")
    fix = 'Write "messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
    if messages is None:
        there = ", ".join(repr(key) for key in list(record)[:8]) or "nothing"
        raise InputError(path, f"{place} has no 'messages' (it has {there})", fix)
    if not isinstance(messages, list) or not messages:
        raise InputError(path, f"{place}: 'messages' is no list of messages, or empty", fix)
    kept = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InputError(path, f"{place}: message {number} has no role", fix)
        message = {name: value for name, value in message.items() if value is not None}  # parquet fills up
        if not isinstance(message.get("content", "" if message.get("tool_calls") else None), str):
            raise InputError(path, f"{place}: message {number} has no text as its content", fix)
        kept.append(message)
    if kept[0]["role"] == "assistant":
        raise InputError(path, f"{place} begins with the assistant", "Put a user's or a system message before it")
    return kept


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("tools", "enable_thinking") if record.get(name) is not None}


def check_template(tokeniser: Any, name: str) -> None:
    """Raise ``OptionError`` where the model ``name`` has no chat template."""
    if not getattr(tokeniser, "chat_template", None):
        raise OptionError(
            f"{{model}}: {name} has no chat template, which makes tokens of conversations. Take its instruct version, "
            "or put a chat_template.jinja into its folder."
        )


def chat_tokens(path: Path, conversation: Conversation, tokeniser: Any) -> ChatTokens:
    """A conversation through the model's chat template, message by message.

    Of an assistant's message, what the template puts before an answer is not the assistant's; the rest, with what ends
    the turn, is. The messages are tokenised one by one.

    Raises
    ------
    InputError
        If the template refuses the conversation, or writes earlier messages anew as it goes on.
    """

    def rendered(messages: Sequence[Mapping[str, Any]], *, prompt: bool = False) -> str:
        try:
            text: str = tokeniser.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=prompt, **conversation.settings
            )
            return text
        except Exception as error:  # templates raise what they like
            what = f"{conversation.place}: the model's chat template refuses it ({reason_of(error)})"
            raise InputError(path, what, "Write the conversation as the model was trained on") from error

    def behind(text: str, before: str) -> str:
        if not text.startswith(before):
            what = f"{conversation.place}: the model's chat template changes what it wrote before, as messages follow"
            raise InputError(path, what, "Cut the conversation behind the assistant's first message")
        return text[len(before) :]

    def tokens_of(text: str) -> list[int]:
        ids: list[int] = tokeniser(text, add_special_tokens=False)["input_ids"]
        return ids

    messages, written = conversation.messages, ""
    parts: list[tuple[str, bool]] = []
    for number, message in enumerate(messages):
        follows = messages[number + 1]["role"] if number + 1 < len(messages) else ""
        if message["role"] in FUNCTIONS and follows in FUNCTIONS:
            continue  # with the last of them
        text = rendered(messages[: number + 1])
        if message["role"] == "assistant":
            prompted = rendered(messages[:number], prompt=True)
            parts += [(behind(prompted, written), False), (behind(text, prompted), True)]
        else:
            parts.append((behind(text, written), False))
        written = text
    pieces = [(tokens_of(text), learn) for text, learn in parts]
    tokens = [token for piece, _ in pieces for token in piece]
    answer = [learn for piece, learn in pieces for _ in piece]
    return ChatTokens(tokens, answer, tokens == tokens_of(written))
