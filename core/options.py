"""An option is stated once: a field of a frozen dataclass with neutral metadata, from which everything else is made.

The command line, its help, completion and man pages, the checks of a library call, the arguments in a report and the
identity of a run that can be resumed all come from the same field::

    @dataclass(frozen=True, slots=True)
    class DenoiseOptions:
        steps: Annotated[int | None, Option("Optimisation steps.", metavar="N", least=1)] = None

        def __post_init__(self) -> None:
            check(self)

A field that is itself such a dataclass is a bundle: its options are options of the whole. Fields without an ``Option``
are for the library alone. Messages name fields in braces (``OptionError("{warmup}: more than {epochs}.")``): a library
call reads the fields' names, the command line puts the flags there. Nothing here imports torch or the command line.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from .errors import InputError, UsageError, did_you_mean, shortened

LARGEST = 2**63 - 1
"""No number of an option may be larger: neither NumPy nor torch holds more."""

T = TypeVar("T")
Complete = Callable[[str], list[str] | list[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Option:
    """What is known of an option beside its type and default.

    Parameters
    ----------
    help : str
        One or two sentences for ``--help`` and the man page.
    name, short : str, optional
        Its flag where that is not ``--`` and the field's name with dashes; ``"-m"``.
    metavar : str, optional
        What stands for the value in help.
    least, most, above, below : float, optional
        Bounds, the first two inclusive. None passes them all.
    choices : tuple of str
        The values of an option that takes names; a ``Literal`` type needs none.
    shown : str, optional
        What help says of a default that is None: ``"by --quality"``.
    text : str, optional
        The default as a user would type it, for an option with ``parse``.
    env : str, optional
        Environment variable that holds another default.
    parse : callable, optional
        Makes the value of a user's text (of each, where it is ``repeatable``). Raises ``ValueError`` or ``UsageError``,
        whose text need not name the option.
    gather : callable
        Makes the field's value of all that was parsed, where it is ``repeatable``. Raises like ``parse``.
    complete : callable, optional
        Shell completion: what could follow the beginning that is typed.
    positional : bool
        An argument instead of a flag; of a tuple any number of them.
    repeatable : bool
        A flag that may be given several times; the field is a tuple.
    negation : str, optional
        The flag that switches off; default ``--no-…`` for options that are on, or undecided.
    resumable : bool
        A run that is resumed may change it: it is no part of the run's ``identity``.
    common : bool
        Serves every command: listed after a command's own options.
    """

    help: str = ""
    _: KW_ONLY
    name: str | None = None
    short: str | None = None
    metavar: str | None = None
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    shown: str | None = None
    text: str | None = None
    env: str | None = None
    parse: Callable[[str], Any] | None = None
    gather: Callable[[tuple[Any, ...]], Any] = tuple
    complete: Complete | None = None
    positional: bool = False
    repeatable: bool = False
    negation: str | None = None
    resumable: bool = False
    common: bool = False


class OptionError(UsageError):
    """A value that an option cannot have; ``{field}`` in the text stands for the option's name.

    Parameters
    ----------
    text : str
        Names of fields in braces.
    """

    def __init__(self, text: str) -> None:
        text = shortened(text)
        super().__init__(self.named(lambda field: field, text))
        self.args = (text,)  # so that the error survives pickling
        self.text = text

    def named(self, name: Callable[[str], str], text: str | None = None) -> str:
        """The message with ``name(field)`` for every field in braces."""
        return re.sub(r"\{(\w+)\}", lambda match: name(match[1]), self.text if text is None else text)

    def __str__(self) -> str:
        return self.named(lambda field: field)


@contextmanager
def about_file(name: object) -> Iterator[None]:
    """What a model or a method says against an input is an ``InputError`` of that input, so that others go on.

    An ``OptionError`` stays: then an option is wrong, not this input.
    """
    try:
        yield
    except OptionError:
        raise
    except UsageError as error:
        raise InputError(str(name), str(error).rstrip(".")) from error


@dataclass(frozen=True, slots=True)
class Stated:
    """One option of a dataclass: where it is, what it takes, and its metadata.

    Parameters
    ----------
    path : tuple of str
        Names of the fields that lead to it, the last being its own.
    option : Option
    type : Any
        Annotation without ``Annotated`` and without ``None``.
    optional : bool
        None is a value.
    default : Any
        ``dataclasses.MISSING`` where it must be given.
    """

    path: tuple[str, ...]
    option: Option
    type: Any
    optional: bool
    default: Any

    @property
    def field(self) -> str:
        return self.path[-1]

    @property
    def flag(self) -> str:
        """``--patch-size``; of an argument its metavar."""
        if self.option.positional:
            return self.option.metavar or self.field.upper()
        return self.option.name or flag(self.field)

    @property
    def several(self) -> bool:
        """Its value is gathered from several words of the command line."""
        return self.option.repeatable or (self.option.positional and typing.get_origin(self.type) is tuple)

    @property
    def choices(self) -> tuple[str, ...]:
        literal = typing.get_args(self.type) if typing.get_origin(self.type) is Literal else ()
        return self.option.choices or tuple(str(choice) for choice in literal)


def flag(field: str) -> str:
    """How a field that does not say otherwise is spelt on a command line: ``--patch-size``."""
    return "--" + field.strip("_").replace("_", "-")


def stated(cls: type) -> tuple[Stated, ...]:
    """The options of a dataclass and of the dataclasses in it, in their order.

    Raises
    ------
    TypeError
        If two options have one name.
    """
    return _stated(cls)  # type: ignore[arg-type]  # mypy: a class is no Hashable


@functools.cache
def _stated(cls: type) -> tuple[Stated, ...]:
    options = tuple(_walk(cls, ()))
    names = [option.field for option in options]
    if twice := {name for name in names if names.count(name) > 1}:
        raise TypeError(f"{cls.__name__} states {', '.join(sorted(twice))} twice")
    return options


def _walk(cls: type, path: tuple[str, ...]) -> Iterator[Stated]:
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        kind, *extras = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
        option = next((extra for extra in extras if isinstance(extra, Option)), None)
        if option is not None:
            kind, optional = _without_none(kind)
            default = field.default if field.default_factory is MISSING else field.default_factory()
            yield Stated((*path, field.name), option, kind, optional, default)
        elif isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from _walk(kind, (*path, field.name))


def _without_none(kind: Any) -> tuple[Any, bool]:
    """``int | None`` as (``int``, True)."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind, False
    parts = [part for part in typing.get_args(kind) if part is not type(None)]
    optional = len(parts) < len(typing.get_args(kind))
    return functools.reduce(operator.or_, parts), optional


def check(options: Any) -> None:
    """Check the fields of ``options`` against their metadata; for ``__post_init__``. Bundles check themselves.

    Raises
    ------
    OptionError
        For a number that is none or out of bounds, a name that is no choice, or a value of another type.
    """
    for option in stated(type(options)):
        if len(option.path) == 1:
            _check_value(option, getattr(options, option.field))


def _check_value(stated: Stated, value: Any) -> None:
    field = "{" + stated.field + "}"
    if value is None and (stated.optional or stated.default is None):
        return
    if stated.type in (int, float):
        if isinstance(value, bool) or not isinstance(value, int if stated.type is int else (int, float)):
            raise OptionError(f"{field}: {value!r} is no {'whole ' * (stated.type is int)}number.")
        _check_number(field, stated.option, value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise OptionError(f"{field}: {value} is no number to work with.")
    elif stated.type is bool and not isinstance(value, bool):
        raise OptionError(f"{field}: {value!r} is neither true nor false.")
    elif stated.choices:
        many = value if isinstance(value, tuple) else (value,)
        for name in many:
            if name not in stated.choices:
                hint = did_you_mean(str(name), stated.choices) or f"Use one of {', '.join(stated.choices)}."
                raise OptionError(f"{field}: {name!r} is no choice. {hint}")


def _check_number(field: str, option: Option, value: float) -> None:
    if not math.isfinite(value):
        raise OptionError(f"{field}: {value} is no number to work with.")
    if abs(value) > LARGEST:
        raise OptionError(f"{field}: {value} is too large.")
    if option.least is not None and value < option.least:
        raise OptionError(f"{field}: {value} is too small. It is at least {option.least:g}.")
    if option.most is not None and value > option.most:
        raise OptionError(f"{field}: {value} is too large. It is at most {option.most:g}.")
    if option.above is not None and value <= option.above:
        raise OptionError(f"{field}: {value} is too small. It is above {option.above:g}.")
    if option.below is not None and value >= option.below:
        raise OptionError(f"{field}: {value} is too large. It is below {option.below:g}.")


def parsed(stated: Stated, text: str) -> Any:
    """The value of what a user typed for an option with ``parse``. Raises ``OptionError``."""
    assert stated.option.parse is not None
    return _named(stated, stated.option.parse, text)


def _named(stated: Stated, convert: Callable[[Any], Any], value: Any) -> Any:
    """``convert(value)``, whose errors name the option."""
    try:
        return convert(value)
    except OptionError:
        raise
    except ValueError as error:  # UsageError is one
        raise OptionError(f"{{{stated.field}}}: {error}") from None


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """An options dataclass from a flat mapping of fields, texts being parsed; what is not there has its default.

    Parameters
    ----------
    cls : type
    values : mapping of str to Any
        Field → value, as they come from the command line or a configuration file.

    Raises
    ------
    OptionError
        For a field that is unknown or missing, or a value that it cannot have.
    """
    known = {option.field: option for option in stated(cls)}
    for name in values:
        if name not in known:
            hint = did_you_mean(name, known) or f"Known: {', '.join(known)}."
            raise OptionError(f"no option named {name!r}. {hint}")
    if missing := [name for name, option in known.items() if option.default is MISSING and name not in values]:
        raise OptionError(f"{{{missing[0]}}}: it must be given.")
    converted = {name: _converted(known[name], value) for name, value in values.items()}
    return _assemble(cls, converted)


def _converted(stated: Stated, value: Any) -> Any:
    if isinstance(value, str) and stated.option.parse is not None:
        return parsed(stated, value)
    if isinstance(value, list):
        parse = stated.option.parse
        parts = tuple(parsed(stated, part) if parse and isinstance(part, str) else part for part in value)
        return _named(stated, stated.option.gather, parts)
    if isinstance(value, str) and stated.type is Path:
        return Path(value)
    if isinstance(value, int) and not isinstance(value, bool) and stated.type is float:
        return float(value)
    return value


def _assemble(cls: type[T], values: Mapping[str, Any]) -> T:
    hints = typing.get_type_hints(cls)
    own = {option.field for option in stated(cls) if len(option.path) == 1}
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        kind = hints[field.name]
        if field.name not in own and isinstance(kind, type) and dataclasses.is_dataclass(kind) and stated(kind):
            arguments[field.name] = _assemble(kind, values)  # a bundle may have the name of a field in it
        elif field.name in values:
            arguments[field.name] = values[field.name]
    return cls(**arguments)


def values(options: Any) -> dict[str, Any]:
    """Field → value of an options dataclass, those of its bundles among them: flat, as ``build`` takes it."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        flat |= values(value) if dataclasses.is_dataclass(value) and stated(type(value)) else {field.name: value}
    return flat


def identity(options: Any) -> dict[str, Any]:
    """What of an options dataclass makes a run that run: its ``values`` but for its ``resumable`` options."""
    free = {option.field for option in stated(type(options)) if option.option.resumable}
    return {name: value for name, value in values(options).items() if name not in free}
