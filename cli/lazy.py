"""A command group that imports a subcommand only when it is used: `attn --help` must not cost a torch import.

Recipe and measurements: PACKAGING.md, section 2. Exceptions become messages and exit codes here and nowhere else.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import io
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperGroup

from attn.core.errors import AttnError, UsageError, did_you_mean
from attn.core.memory import VARIABLE, parse_budget, set_budget
from attn.core.options import OptionError, flag
from attn.core.text import one_line

from .say import say, undelivered
from .streams import EXIT_PIPE, OutputLost

SETTINGS: dict[str, Any] = {
    "rich_markup_mode": None,  # help drawn by Rich costs 160 ms and reads badly in a pipe or a man page
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


READ_NOTHING = frozenset({"methods", "doctor", "man"})
"""Commands without a budget of memory."""
MaxMemoryOption = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="SIZE",
        envvar=VARIABLE,
        show_default="half of the machine's",
        help="Memory that one input may take, such as 4g; what would take more is refused before it is read.",
    ),
]


def with_budget(main: Callable[..., Any]) -> Callable[..., Any]:
    """A command with ``--max-memory``, which takes effect here: no command passes it on.

    Numbers that are none are refused, and Ctrl-C gives a report, whatever the command does.
    """

    signature = inspect.signature(main, eval_str=True)

    @functools.wraps(main)
    def command(*args: Any, max_memory: str | None = None, **options: Any) -> Any:
        _check_numbers(options, signature.parameters)
        set_budget(None if max_memory is None else parse_budget(max_memory))
        try:
            return main(*args, **options)
        except KeyboardInterrupt:  # where the command itself cannot say how far it came
            from .show import show_interrupted

            show_interrupted(main.__module__.split(".")[2].partition("_")[0], options)
            raise typer.Exit(EXIT_INTERRUPTED) from None

    added = inspect.Parameter("max_memory", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=MaxMemoryOption)
    command.__signature__ = signature.replace(parameters=[*signature.parameters.values(), added])  # type: ignore[attr-defined]
    return command


LARGEST = 2**63 - 1
"""No number of an option may be larger: neither NumPy nor torch holds more."""


def _check_numbers(options: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]) -> None:
    """``UsageError`` for a number that is none (NaN passes every range of Typer's), infinite or beyond 64 bits."""
    for name, value in options.items():
        flag = _flag(parameters[name])
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{flag}: {value} is no number to work with.")
        if isinstance(value, int) and abs(value) > LARGEST:
            raise UsageError(f"{flag}: {value} is too large.")


def _flag(parameter: inspect.Parameter) -> str:
    """The longest spelling of an option; in ``Annotated`` Typer keeps the first of them as the default."""
    for told in get_args(parameter.annotation):
        words = (getattr(told, "default", None), *(getattr(told, "param_decls", None) or ()))
        if flags := [word for word in words if isinstance(word, str) and word.startswith("-")]:
            return max(flags, key=len)
    return parameter.name


def made(name: str, main: Callable[..., Any]) -> Any:
    """A function as Typer's command of that name."""
    sub = typer.Typer(**SETTINGS)
    sub.command(name=name)(main)
    return typer.main.get_command(sub)


class LazyGroup(TyperGroup):
    """Subclasses set ``table``: name → (module with a ``main`` function or a Typer ``app``, one line of help)."""

    table: Mapping[str, tuple[str, str]] = {}
    unlisted: frozenset[str] = frozenset()

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in self.table if name not in self.unlisted]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in self.table and cmd_name not in self.commands:
            self.commands[cmd_name] = self.load(cmd_name)
        return super().get_command(ctx, cmd_name)

    def load(self, name: str) -> Any:
        """A command of the table, imported now."""
        module = importlib.import_module(self.table[name][0])
        if hasattr(module, "app"):  # a group of verbs
            group = typer.main.get_command(module.app)
            group.name = name
            return group
        return made(name, module.main if name in READ_NOTHING else with_budget(module.main))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The one-liners come from the table, so that listing them imports nothing."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.table[name][1]) for name in self.list_commands(ctx)])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.table:  # Typer itself suggests only commands that are loaded already
            hint = did_you_mean(args[0], self.list_commands(ctx)) or "`attn --help` lists the commands."
            raise UsageError(f"no command named {args[0]!r}. {hint}")
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *rest: Any, **extra: Any) -> Any:
        """Run the command and leave with its exit code; faults become one line (with -v also a traceback)."""
        argv = list(sys.argv[1:] if args is None else args)
        verbose = bool({"-v", "--verbose"} & set(argv))
        undelivered(False)
        try:
            if argv and argv[0] in self.table and {"-h", "--help"} & set(argv[1:]):  # help needs no value conversion
                return self.get_command(None, argv[0]).main(
                    argv[1:], prog_name=f"{prog_name or 'attn'} {argv[0]}", **extra
                )
            code = super().main(argv, prog_name, *rest, **{**extra, "standalone_mode": False})
            raise SystemExit(code or int(undelivered()))
        except typer.Abort:
            raise SystemExit(EXIT_INTERRUPTED) from None
        except AttnError as error:
            _trace(verbose)
            text = error.named(flag) if isinstance(error, OptionError) else str(error)
            say(f"attn: {text}", err=True)
            raise SystemExit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED) from None
        except BrokenPipeError:
            raise SystemExit(EXIT_PIPE) from None
        except OutputLost:
            raise
        except Exception as error:
            if hasattr(error, "format_message"):  # Typer's own: an option or a value that it does not take
                say(_usage(error), err=True, lines=True)
                raise SystemExit(EXIT_USAGE) from None
            _trace(verbose)
            text = one_line(str(error))
            say(f"attn: internal error, {type(error).__name__}: {text}. Please report it (-v shows where)", err=True)
            raise SystemExit(EXIT_FAILED) from None

    def invoke(self, ctx: Any) -> Any:
        """Typer would leave without a word on Ctrl-C."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("attn: interrupted", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None


def _usage(error: Any) -> str:
    """What Typer says of a wrong command line: usage and hint as they are, what is wrong in one line."""
    text = io.StringIO()
    error.show(file=text)
    message = error.format_message()
    return text.getvalue().rstrip().removesuffix(message.rstrip()) + one_line(message)


def _trace(wanted: bool) -> None:
    if wanted:
        say(traceback.format_exc().rstrip(), err=True, lines=True)
