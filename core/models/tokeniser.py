"""Tokenisers of transformers by tokenizers alone: the same tokens, without importing transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import read_json

_ANY = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of transformers that take tokenizer.json as it is."""
_BERT = ("BertTokenizer", "BertTokenizerFast")
"""Classes that make a tokeniser of their settings, with the words of tokenizer.json alone."""
_CHANGES = ("add_prefix_space", "add_bos_token", "add_eos_token", "auto_map")
"""Settings by which transformers changes what tokenizer.json says."""
_SPECIAL = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token", "bos_token", "eos_token")
NO_LIMIT = 10**30


class FileTokeniser:
    """A tokenizer.json, called as the fast tokenisers of transformers are.

    Parameters
    ----------
    core : tokenizers.Tokenizer
        Neither cuts nor pads.
    special : mapping of str to str
        ``pad_token``, ... and what they are.
    model_max_length : int
        Tokens that the model was made for; ``NO_LIMIT`` where nothing says it.
    """

    is_fast = True

    def __init__(self, core: Any, special: Mapping[str, str], model_max_length: int) -> None:
        self._core, self.model_max_length = core, model_max_length
        self.pad_token_id, self.bos_token_id, self.eos_token_id = (
            core.token_to_id(special[name]) if name in special else None
            for name in ("pad_token", "bos_token", "eos_token")
        )

    def __call__(
        self, texts: str | Sequence[str], *, truncation: bool = False, max_length: int | None = None,
        add_special_tokens: bool = True, return_offsets_mapping: bool = False, verbose: bool = True,
    ) -> dict[str, Any]:  # fmt: skip
        """``input_ids`` and, if wanted, ``offset_mapping`` (begin, end in characters of each token).

        Parameters
        ----------
        texts : str or sequence of str
            Of one text both are plain lists, else lists of one for each.
        truncation : bool
            Cut at ``max_length``, special tokens included.
        max_length : int, optional
        add_special_tokens, return_offsets_mapping : bool
        verbose : bool
            Nothing is said in any case.
        """
        if truncation and max_length is not None:
            self._core.enable_truncation(max_length)
        try:
            one = isinstance(texts, str)
            found = self._core.encode_batch([texts] if one else list(texts), add_special_tokens=add_special_tokens)
        finally:
            self._core.no_truncation()
        out: dict[str, Any] = {"input_ids": [text.ids for text in found]}
        if return_offsets_mapping:
            out["offset_mapping"] = [text.offsets for text in found]
        return {name: values[0] for name, values in out.items()} if one else out

    def num_special_tokens_to_add(self) -> int:
        """Special tokens around a text."""
        return int(self._core.num_special_tokens_to_add(is_pair=False))


def load_tokeniser(folder: Path) -> FileTokeniser | None:
    """The tokeniser of a folder; None where transformers may make other tokens than its tokenizer.json does.

    Raises
    ------
    UsageError
        If its settings cannot be read.
    """
    file, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if not file.is_file() or not settings.is_file() or (folder / "added_tokens.json").exists():
        return None
    layout, config = read_json(file), read_json(settings)
    if not isinstance(layout, dict) or not isinstance(config, dict):
        return None
    special = {name: _text(config[name]) for name in _SPECIAL if config.get(name) is not None}
    if not _as_it_is(layout, config, special):
        return None
    from tokenizers import Tokenizer

    core = Tokenizer.from_file(str(file))
    core.no_truncation()
    core.no_padding()
    if any(core.token_to_id(token) is None for token in special.values()):
        return None
    longest = config.get("model_max_length", NO_LIMIT)
    return FileTokeniser(core, special, int(longest)) if isinstance(longest, int | float) else None


def _as_it_is(layout: Mapping[str, Any], config: Mapping[str, Any], special: Mapping[str, str]) -> bool:
    """Whether transformers would make the tokens that ``layout`` makes."""
    added = {token.get("content"): token.get("special") for token in layout.get("added_tokens") or ()}
    if not set(special.values()) <= set(added) or not all(added.values()):
        return False
    if config.get("truncation_side", "right") != "right" or any(name in config for name in _CHANGES):
        return False
    kind = config.get("tokenizer_class")
    return kind in _ANY or (kind in _BERT and _is_bert(layout, config, special))


def _is_bert(layout: Mapping[str, Any], config: Mapping[str, Any], special: Mapping[str, str]) -> bool:
    """Whether ``layout`` is what BERT's settings say: word pieces between [CLS] and [SEP]."""
    parts = {name: layout.get(name) or {} for name in ("normalizer", "pre_tokenizer", "model", "post_processor")}
    normaliser = {
        "type": "BertNormalizer", "clean_text": True, "lowercase": config.get("do_lower_case", True),
        "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
        "strip_accents": config.get("strip_accents"),
    }  # fmt: skip
    model = {
        "type": "WordPiece", "unk_token": special.get("unk_token", "[UNK]"), "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    }  # fmt: skip
    first, last = special.get("cls_token", "[CLS]"), special.get("sep_token", "[SEP]")
    around = [
        {"SpecialToken": {"id": first, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": last, "type_id": 0}},
    ]  # fmt: skip
    return (
        parts["normalizer"] == normaliser
        and parts["pre_tokenizer"] == {"type": "BertPreTokenizer"}
        and model.items() <= parts["model"].items()
        and parts["post_processor"].get("type") == "TemplateProcessing"
        and parts["post_processor"].get("single") == around
    )


def _text(token: Any) -> str:
    """A token as settings name it: plain, or with how it is found in a text."""
    return str(token["content"] if isinstance(token, dict) else token)
