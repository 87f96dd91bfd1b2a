"""Words that a model's tokeniser has no token for: a model that was trained on few words takes only those."""

from __future__ import annotations

from typing import Any

from ...errors import UsageError

LISTED = 100
"""Vocabularies up to so many tokens are listed to the user."""


def unknown_words(tokeniser: Any, text: str) -> tuple[str, ...]:
    """Words of a text, split at white space, that hold something for which a tokeniser has no token; each once."""
    if _knows(tokeniser, text):
        return ()
    return tuple(dict.fromkeys(word for word in text.split() if not _knows(tokeniser, word))) or (text,)


def check_words(tokeniser: Any, text: str) -> list[str]:
    """What to warn of: words that are read as the unknown token.

    Raises
    ------
    UsageError
        If the tokeniser has no such token and so cannot take the text; names the words.
    """
    if not (missing := unknown_words(tokeniser, text)):
        return []
    which = f"the model does not know {', '.join(repr(word) for word in missing)}"
    if tokeniser.unk_token_id is not None:
        return [f"{which}: it reads {tokeniser.unk_token} there"]
    vocabulary = tokeniser.get_vocab()
    known = sorted(word for word in vocabulary if not word.startswith("<"))
    raise UsageError(f"{which}. It knows {', '.join(known) if len(vocabulary) <= LISTED else f'{len(known)} others'}.")


def _knows(tokeniser: Any, text: str) -> bool:
    unknown = tokeniser.unk_token_id
    try:
        return unknown not in tokeniser(text, add_special_tokens=False)["input_ids"]
    except Exception:  # one without a token for what it does not know: tokenizers raises nothing narrower
        return False
