"""Who describes crops: a vision-language model on this machine, or a function of the user's own.

A function takes a picture (Pillow, RGB) and a template: "" asks for a description in its own words, any other text for
that sentence with words in the place of what stands in brackets. It returns the caption, or None where it has none.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...device import pick_device
from ...errors import AttnError, InputError
from ...functions import own_function
from ...models.load import load_model
from ...models.pictures import ColourPicture
from ...options import OptionError
from ...prune.vlm.ask import answer, prepare_file
from ...text import one_line, reason_of
from ..options.curate import CurateOptions
from . import phrases

FOLLOW = "Write this sentence about the person in the picture, with what you see in the place of each bracket: "
LONGEST = 2000
"""Characters of a caption."""
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_OPEN = re.compile(r"[{}\[\]]")


@dataclass(frozen=True, slots=True)
class Captioner:
    """What answers.

    Parameters
    ----------
    name : str
        For people.
    mark : str
        Answers of one mark are of one captioner, asked in the same way.
    ask : callable
        (picture of Pillow, template) -> what it says, of any type.
    """

    name: str
    mark: str
    ask: Callable[[Any, str], Any]

    def caption(self, picture: Any, template: str, name: str) -> str:
        """A caption of one line: of ``template``, or in the captioner's own words where that is empty.

        Raises
        ------
        InputError
            About ``name``: the captioner failed, said nothing, or what it said is no caption.
        """
        try:
            said = self.ask(picture, phrases.shown(template))
        except AttnError:
            raise
        except (Exception, SystemExit) as error:  # code of the user's: the other crops go on
            what = f"{self.name} failed on it ({type(error).__name__}: {reason_of(error)})"
            raise InputError(name, what, "Mend the captioner and run the same command again") from error
        if said is None or (isinstance(said, str) and not said.strip()):
            raise InputError(name, f"{self.name} gave no caption", "Run the same command again to ask once more")
        if not isinstance(said, str):
            what = f"{self.name} gave {type(said).__name__}, not a text"
            raise InputError(name, what, "Return a str, or None for no caption")
        text = " ".join(said.split())
        if len(text) > LONGEST:
            raise InputError(name, f"{self.name} gave {len(text)} characters (at most {LONGEST})", "Shorten its answer")
        if _OPEN.search(text):
            raise InputError(name, f"{self.name} left a slot open: {one_line(text)[:80]!r}", "Fill all brackets")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(name, f"{self.name} gave half a character", "Return whole Unicode text") from None
        return text


def captioner_of(options: CurateOptions) -> Captioner:
    """The captioner of ``options``, loaded once per process.

    Raises
    ------
    OptionError
        If there is no such model or function.
    """
    assert options.captioner is not None
    encoder = options.encoder
    if _FUNCTION.fullmatch(options.captioner) and not os.path.exists(options.captioner):
        return _function(options.captioner, options.fill == "model")
    return _model(
        options.captioner, encoder.device, encoder.dtype, encoder.allow_download, options.prompt, options.max_new_tokens
    )


@lru_cache(maxsize=1)
def _model(name: str, device: str, dtype: str, allow_download: bool, prompt: str, max_new_tokens: int) -> Captioner:
    try:
        loaded = load_model(
            name, "vision-language", device=pick_device(device), dtype=dtype, allow_download=allow_download
        )
    except OptionError as error:  # the option of this command has another name
        hint = "" if os.path.isdir(name) else " A function of yours is written MODULE:FUNCTION."
        raise OptionError(error.text.replace("{model}", "{captioner}") + hint) from None

    def ask(picture: Any, template: str) -> str:
        pixels = np.asarray(picture, np.float32).transpose(2, 0, 1) / 255
        question = f"{FOLLOW}{template}" if template else prompt
        seen = ColourPicture(np.ascontiguousarray(pixels), (picture.height, picture.width))
        try:
            prepared = prepare_file(loaded, seen, question, "the crop")
            return answer(loaded, prepared, max_new_tokens=max_new_tokens).text
        except OptionError as error:
            raise OptionError(error.text.replace("{model}", "{captioner}")) from None

    asked = hashlib.sha256(f"{prompt}\0{FOLLOW}\0{max_new_tokens}\0{dtype}".encode()).hexdigest()[:12]
    return Captioner(Path(name).name, f"{loaded.fingerprint[:16]}:{asked}", ask)


@lru_cache(maxsize=1)
def _function(name: str, filling: bool) -> Captioner:
    function = own_function(name, "captioner")
    least = 2 if filling else 1
    if not _takes(function, least):
        templates = " and a template" if filling else ""
        way = " One without templates works with {fill} words." if filling else ""
        raise OptionError(f"{{captioner}} {name}: it must take a picture{templates}.{way}")
    both = _takes(function, 2)

    def ask(picture: Any, template: str) -> Any:
        return function(picture, template) if both else function(picture)

    return Captioner(name, f"{name}:{_source(sys.modules[name.partition(':')[0]])}", ask)


def _takes(function: Any, count: int) -> bool:
    """Whether it can be called with so many arguments; yes where that is not known."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # one of C
        return True
    return True


def _source(module: Any) -> str:
    """A hash of the module's file: another text is another captioner."""
    try:
        return hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()[:12]
    except (AttributeError, OSError):
        return "-"
