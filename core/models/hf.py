"""Models and tokenisers of transformers from local folders: quiet, offline, and complete or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..network import network
from ..options import OptionError
from ..text import reason_of
from .files import read_json

_ENCODERS = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
_OFFSET = ("roberta", "xlm-roberta", "camembert", "mpnet")  # their positions start behind the padding index
_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken")
_PROCESSORS = {"SmolVLMProcessor": "Idefics3Processor"}  # the same prompts; the former needs num2words, for videos
_FRAME = (128 * 28 * 28, 768 * 28 * 28)  # of transformers' Qwen2VLVideoProcessor
_PICTURES = ("processor_config.json", "preprocessor_config.json")
_UNUSED = re.compile(r"(^|\.)pooler\.")  # a head that pooling replaces; checkpoints often come without it


def transformers() -> Any:
    """The package. Raises ``UsageError`` where it is not installed."""
    try:
        import transformers
    except ImportError:
        raise OptionError("{model}: this model needs transformers. Install it: pip install transformers") from None
    return transformers


@contextmanager
def quiet() -> Iterator[None]:
    """Neither network, progress bars nor load reports of transformers; what matters in them becomes an error here."""
    logging = transformers().utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with network():
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load_config(folder: Path) -> Any:
    """Configuration of a folder. Raises ``UsageError`` where there is none that transformers knows."""
    try:
        with quiet():
            return transformers().AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise OptionError(
            f"{{model}}: {folder} has no configuration that transformers knows ({reason_of(error)})."
        ) from None


def load_class(folder: Path, name: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The class ``name`` of transformers with the weights of ``folder``, in eval mode.

    Raises
    ------
    UsageError
        If the weights cannot be read, or some are missing (transformers would invent them).
    """
    try:
        with quiet():
            model, report = getattr(transformers(), name).from_pretrained(
                folder, dtype=dtype, local_files_only=True, output_loading_info=True
            )
    except Exception as error:  # of any kind: pickle, safetensors, missing packages, code of its own
        raise OptionError(f"{{model}}: {folder} cannot be loaded ({reason_of(error)}).") from None
    if missing := sorted(key for key in report["missing_keys"] if not _UNUSED.search(key)):
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise OptionError(f"{{model}}: {folder} lacks {len(missing)} weights of {type(model).__name__}: {some}.")
    module: nn.Module = model.to(device).eval()
    return module


def load_text_model(folder: Path, config: Any, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The transformer of a text encoder, without heads; of T5 and its kin, the encoder."""
    return load_class(folder, _ENCODERS.get(config.model_type, "AutoModel"), dtype, device)


def load_tokeniser(folder: Path) -> Any:
    """Tokeniser of a folder. Raises ``UsageError`` where it cannot be read."""
    if not any(next(folder.glob(pattern), None) for pattern in _VOCABULARIES):  # transformers 5 would take an empty one
        raise OptionError(
            f"{{model}}: {folder} holds no tokeniser (tokenizer.json, vocab.txt, vocab.json or a .model)."
        )
    try:
        with quiet():
            tokeniser = transformers().AutoTokenizer.from_pretrained(folder, local_files_only=True)
            tokeniser("a")  # what is wrong with its settings shows when it is used
            return tokeniser
    except Exception as error:  # of any kind: missing files, missing packages (sentencepiece)
        raise OptionError(f"{{model}}: the tokeniser of {folder} cannot be loaded ({reason_of(error)}).") from None


def has_class(config: Any, name: str) -> bool:
    """Whether the automatic class ``name`` of transformers knows models of such a configuration."""
    return type(config) in getattr(transformers(), name)._model_mapping


def load_processor(folder: Path, config: Any) -> Any:
    """What turns prompts with pictures into the input of a model of ``config``, by the same code on every machine.

    Raises ``UsageError`` where it cannot be read.
    """
    package = transformers()
    tokeniser = load_tokeniser(folder)
    if not any((folder / name).is_file() for name in _PICTURES):
        raise OptionError(f"{{model}}: {folder} holds no processor of pictures ({' or '.join(_PICTURES)}).")
    try:
        with quiet():
            images = package.AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
            settings, _ = package.ProcessorMixin.get_processor_dict(folder, local_files_only=True)
            name = settings.get("processor_class") or package.PROCESSOR_MAPPING[type(config)].__name__
            cls = for_pictures(getattr(package, _PROCESSORS.get(name, name)))
            processor = cls.from_args_and_dict([images, tokeniser], settings)
    except Exception as error:  # of any kind: missing files, missing packages
        raise OptionError(f"{{model}}: the processor of {folder} cannot be loaded ({reason_of(error)}).") from None
    if getattr(processor, "patch_size", 0) is None:
        raise OptionError(
            f"{{model}}: the processor of {folder} does not say its patch_size, as old ones. Copy the folder again."
        )
    return processor


def for_pictures(cls: Any) -> Any:
    """A class of processors without its part for videos, which would need torchvision."""
    return type(cls.__name__, (cls,), {"get_attributes": classmethod(lambda _: ["image_processor", "tokenizer"])})


def frame_pixels(folder: Path) -> tuple[int, int]:
    """How many pixels a frame of a video has at least and at most, for Qwen2-VL and its kin, as its folder says it.

    Raises ``UsageError`` where that cannot be read.
    """
    for name in ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json"):
        if not (folder / name).is_file():
            continue
        settings = read_json(folder / name)
        settings = settings.get("video_processor") if name == "processor_config.json" else settings
        if settings is not None:
            size = settings.get("size") or {}
            least = settings.get("min_pixels") or size.get("shortest_edge") or _FRAME[0]
            return int(least), int(settings.get("max_pixels") or size.get("longest_edge") or _FRAME[1])
    return _FRAME


def positions(config: Any, tokeniser: Any) -> int | None:
    """Tokens the position table holds, or None where positions are relative or rotary without a limit."""
    table = getattr(config, "max_position_embeddings", None)
    if not table or table < 1:
        return None
    if config.model_type in _OFFSET:
        table -= (getattr(config, "pad_token_id", None) or tokeniser.pad_token_id or 0) + 1
    return int(table)


def limit_tokens(model: str, wanted: int | None, own: int | None, table: int | None) -> tuple[int | None, list[str]]:
    """How many tokens of a text are used, and what to warn of.

    Parameters
    ----------
    model : str
        Name for messages.
    wanted : int or None
        What the user asked for.
    own : int or None
        What the model was made for.
    table : int or None
        What its positions allow.

    Raises
    ------
    UsageError
        If more are wanted than its positions allow, or fewer than 3 (two are special).
    """
    for said in (own, table):
        if said is not None and (not isinstance(said, int) or said < 1):
            raise OptionError(f"{{model}}: the configuration of {model} gives {said!r:.40} as a number of tokens.")
    if own and table:
        own = min(own, table)
    if wanted is None:
        return own or table, []
    if wanted < 3 or (table and wanted > table):
        raise OptionError(f"{{max_tokens}} {wanted}: {model} takes 3 to {table or 'any number of'} tokens.")
    if own and wanted > own:
        return wanted, [f"{model} was made for {own} tokens; {wanted} work, but it was not trained on such texts"]
    return wanted, []
