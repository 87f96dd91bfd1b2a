"""What is known before the first picture: the model, read once per process, and the method with its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ...device import pick_dtype
from ...errors import UsageError
from ...models.load import Task, load_model
from ...models.loaded import Loaded
from ...options import OptionError
from ..options import PruneOptions
from ..saved import read_saved, shape_in_words
from ..settings import settings_of
from ..told import model_kind
from ..vit.trained import load_image_model
from ..vlm.words import check_words


@dataclass(frozen=True, slots=True)
class Ready:
    """A call that can be done.

    Parameters
    ----------
    fingerprint : str
        Of the model's weights.
    shape : str
        Class and size of the model, for people.
    device : str
        Where it runs.
    kind : str
        See ``told.model_kind``.
    """

    fingerprint: str
    shape: str
    device: str
    kind: str


def ready_with(options: PruneOptions, loaded: Loaded) -> Ready:
    """A call with a model that is loaded and checked."""
    device = str(next(loaded.model.parameters()).device)
    return Ready(loaded.fingerprint, shape_in_words(loaded.model), device, model_kind(loaded, options.choice.model))


@lru_cache(maxsize=2)
def _load(model: str, task: Task, device: str, dtype: str, allow_download: bool) -> Loaded:
    if task == "classifier":
        return load_image_model(model, device=device, dtype=dtype, allow_download=allow_download)
    return load_model(model, task, device=device, dtype=pick_dtype(dtype), allow_download=allow_download)


def loaded_model(options: PruneOptions, task: Task, name: str = "") -> Loaded:
    """The model, or another one by name; each read once per process."""
    choice = options.choice
    return _load(name or choice.model, task, options.device, options.dtype, choice.allow_download)


def settings_for(options: PruneOptions, name: str) -> Mapping[str, Any]:
    """What the options say to a method, or the kept folder. Raises ``UsageError``."""
    return read_saved(options.saved).settings if options.saved else settings_of(options, name)


def asked(options: PruneOptions) -> str:
    """The question. Raises ``OptionError`` where there is none."""
    if options.prompt is None or not options.prompt.strip():
        raise OptionError("{prompt}: say what is asked about every picture, as {prompt} 'what is this'.")
    return options.prompt


def check_asked(options: PruneOptions, loaded: Loaded) -> None:
    """Refuse a question in words that the model does not know. Raises ``OptionError``."""
    try:
        check_words(loaded.processor.joint.tokenizer, asked(options))
    except UsageError as error:
        raise OptionError(f"{{prompt}}: {error}") from None
