"""A command group that imports a subcommand only when it is used: `attn --help` must not cost a torch import.

Recipe and measurements: PACKAGING.md, section 2. Exceptions become messages and exit codes here and nowhere else.
"""

from __future__ import annotations

import importlib
import io
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from attn.core.errors import AttnError, UsageError, did_you_mean
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
        own = made(name, module.main)
        return CommandWithVerbs(own, module.VERBS) if hasattr(module, "VERBS") else own

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The one-liners come from the table, so that listing them imports nothing."""
        if names := self.list_commands(ctx):
            with formatter.section("Commands"):
                formatter.write_dl([(name, self.table[name][1]) for name in names])

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


class CommandWithVerbs(LazyGroup):
    """A command with inputs of its own, and verbs below it: where its first word is a verb's name, it is that verb.

    An input of such a name is still reached, as ``./NAME``.

    Parameters
    ----------
    own : Command
        Of Typer: what is done where no verb is named.
    table : mapping
        Of the verbs, as in ``LazyGroup``.
    """

    allow_extra_args, allow_interspersed_args = False, True

    def __init__(self, own: Any, table: Mapping[str, tuple[str, str]]) -> None:
        super().__init__(
            name=own.name, callback=own.callback, params=own.params, help=own.help, subcommand_metavar="",
            rich_markup_mode=None, context_settings=own.context_settings,
        )  # fmt: skip
        self.table = table

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] in self.table:
            ctx.args = args
            return args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        if not ctx.args:
            return ctx.invoke(self.callback, **ctx.params)
        name, command, args = self.resolve_command(ctx, ctx.args)
        with ctx, command.make_context(name, args, parent=ctx) as below:
            return below.command.invoke(below)


def _usage(error: Any) -> str:
    """What Typer says of a wrong command line: usage and hint as they are, what is wrong in one line."""
    text = io.StringIO()
    error.show(file=text)
    message = error.format_message()
    return text.getvalue().rstrip().removesuffix(message.rstrip()) + one_line(message)


def _trace(wanted: bool) -> None:
    if wanted:
        say(traceback.format_exc().rstrip(), err=True, lines=True)
