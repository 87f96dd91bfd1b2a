"""Functions of the user's own, named ``MODULE:FUNCTION`` on the command line: found, imported, told of in one line."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from .options import OptionError
from .text import reason_of


def own_function(name: str, option: str) -> Callable[..., Any]:
    """The function that a user named ``MODULE:FUNCTION``.

    Modules of the working directory are found, too; what is installed goes first.

    Parameters
    ----------
    name : str
    option : str
        The option that named it, for the message.

    Raises
    ------
    OptionError
        If the module cannot be imported, or holds nothing of that name that can be called.
    """
    module_name, _, inside = name.partition(":")
    here = os.getcwd()
    if added := here not in sys.path:
        sys.path.append(here)  # `attn` is a script of its own: the folder it is called in is not searched
    try:
        function: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # code of the user's fails in any way
        what = f"{module_name}: {type(error).__name__}: {reason_of(error)}"
        raise OptionError(f"{{{option}}}: {name} cannot be imported ({what}).") from error
    finally:
        if added:
            sys.path.remove(here)
    for part in inside.split("."):
        function = getattr(function, part, None)
    if not callable(function):
        raise OptionError(f"{{{option}}}: {name} cannot be imported ({module_name} holds no function {inside}).")
    return function  # type: ignore[no-any-return]
