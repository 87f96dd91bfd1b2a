"""The command line of an options dataclass: core states an option once, Typer's declaration is made from it here."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from typing import Annotated, Any

import typer

from attn.core.bundles import Memory, Reporting
from attn.core.command import Verb
from attn.core.errors import UsageError
from attn.core.memory import set_budget
from attn.core.options import OptionError, Stated, build, stated

from .lazy import EXIT_INTERRUPTED
from .options import ListOption


def command(main: Callable[..., None], *, methods: str | None = None) -> Callable[..., None]:
    """A function that takes options dataclasses, as one that Typer makes a command of.

    Every command has ``--max-memory``, which takes effect here, and gives a report after Ctrl-C, whatever it does.

    Parameters
    ----------
    main : callable
        Its parameters are options dataclasses; its docstring is the help. With a parameter ``given``, a frozenset of
        str, it is told which fields stand on the command line.
    methods : str, optional
        Command whose methods ``--list`` lists.

    Returns
    -------
    callable
        Takes one keyword an option. An ``OptionError`` leaves it as a ``UsageError`` that names flags.

    Raises
    ------
    TypeError
        If two options have one name.
    """
    bundles: dict[str, type] = {name: kind for name, kind in typing.get_type_hints(main).items() if name != "return"}
    asks = bundles.pop("given", None) is not None
    options = [option for bundle in (*bundles.values(), Memory) for option in stated(bundle)]
    options.sort(key=lambda option: option.option.common)
    flags = {option.field: option.flag for option in options}
    if len(flags) < len(options):
        raise TypeError(f"{main.__qualname__} states an option twice")

    @functools.wraps(main)
    def run(**given: Any) -> None:
        if methods is not None and given.pop("list_"):
            from .methods import list_methods

            return list_methods(methods, as_json=given["as_json"])
        try:
            set_budget(build(Memory, _values(Memory, given)).max_memory)
            extra = {"given": _on_command_line(given.pop("context"))} if asks else {}
            main(**{name: build(bundle, _values(bundle, given)) for name, bundle in bundles.items()}, **extra)
        except OptionError as error:
            raise UsageError(error.named(lambda field: flags.get(field, f"{{{field}}}"))) from error
        except KeyboardInterrupt:  # where the command itself cannot say how far it came
            from .show import show_interrupted

            show_interrupted(main.__module__.split(".")[2], given)
            raise typer.Exit(EXIT_INTERRUPTED) from None

    parameters = [_parameter(option) for option in options]
    if methods is not None:
        place = sum(not option.option.common for option in options)
        parameters.insert(place, _LIST)
    if asks:
        parameters.append(inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


_LIST = inspect.Parameter("list_", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=ListOption)


def _on_command_line(context: typer.Context) -> frozenset[str]:
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return frozenset(name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE")


def _values(bundle: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given of a bundle's options; None and an empty list of Typer's are "not given"."""
    known = (option.field for option in stated(bundle))
    return {name: given[name] for name in known if given[name] not in (None, [])}


def _parameter(option: Stated) -> inspect.Parameter:
    """The keyword of one option, declared for Typer."""
    known = option.option
    shared: dict[str, Any] = {
        "help": known.help or None, "metavar": known.metavar, "envvar": known.env, "autocompletion": known.complete,
        "min": known.least, "max": known.most,
    }  # fmt: skip
    if option.type is int:
        shared |= {name: int(shared[name]) for name in ("min", "max") if shared[name] is not None}
    elif option.type is not float:
        shared |= {"min": None, "max": None}
    default = known.text if known.parse or option.several else option.default
    declared: Any
    if known.positional:
        declared = typer.Argument(show_default=False, **shared)
    else:
        declared = typer.Option(*_spellings(option), show_default=known.shown or True, **shared)
    kind = _kind(option)
    required = option.default is MISSING
    if not required and default is None:
        kind = kind | None
    return inspect.Parameter(
        option.field, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, declared],
        default=inspect.Parameter.empty if required else default,
    )  # fmt: skip


def _spellings(option: Stated) -> list[str]:
    """``--figure``, ``--guided/--no-guided``, with the short one behind."""
    spelt, known = option.flag, option.option
    if option.type is bool and not known.parse and (known.negation or option.default is not False):
        spelt = f"{spelt}/{known.negation or spelt.replace('--', '--no-', 1)}"
    return [spelt, *([known.short] if known.short else [])]


def _kind(option: Stated) -> Any:
    """The type that Typer reads a value as; what core parses arrives as text."""
    if option.several:
        return list[str]
    if option.option.parse is not None or typing.get_origin(option.type) is tuple:
        return str
    return option.type


def verb(verb: Verb, group: str, name: str) -> Callable[..., None]:
    """The command of a registry's row: parse, call core, show.

    Parameters
    ----------
    verb : Verb
    group, name : str
        The command it belongs to, and its own; for the report of a run that is interrupted.
    """

    def main(options: Any, reporting: Reporting) -> None:
        from .show import run_verb

        run_verb(verb, group, name, options, reporting)

    main.__annotations__ = {"options": verb.options, "reporting": Reporting}
    main.__doc__, main.__module__ = verb.description, f"attn.cli.{group}"
    return command(main)
