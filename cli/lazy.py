"""A command group that imports a subcommand only when it is used: `attn --help` must not cost a torch import.

Recipe and measurements: PACKAGING.md, section 2. Exceptions become messages and exit codes here and nowhere else.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from attn.core.errors import AttnError, UsageError, did_you_mean
from attn.core.memory import VARIABLE, parse_budget, set_budget

from .say import say

SETTINGS: dict[str, Any] = {
    "rich_markup_mode": None,  # help drawn by Rich costs 160 ms and reads badly in a pipe or a man page
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_PIPE = 0, 1, 2, 130, 141


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


def _with_budget(main: Callable[..., Any]) -> Callable[..., Any]:
    """A command with ``--max-memory``, which takes effect here: no command passes it on."""

    @functools.wraps(main)
    def command(*args: Any, max_memory: str | None = None, **options: Any) -> Any:
        set_budget(None if max_memory is None else parse_budget(max_memory))
        return main(*args, **options)

    signature = inspect.signature(main, eval_str=True)
    added = inspect.Parameter("max_memory", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=MaxMemoryOption)
    command.__signature__ = signature.replace(parameters=[*signature.parameters.values(), added])  # type: ignore[attr-defined]
    return command


class LazyGroup(TyperGroup):
    """Subclasses set ``table``: name → (module with a ``main`` function or a Typer ``app``, one line of help)."""

    table: Mapping[str, tuple[str, str]] = {}
    unlisted: frozenset[str] = frozenset()

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in self.table if name not in self.unlisted]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in self.table and cmd_name not in self.commands:
            module = importlib.import_module(self.table[cmd_name][0])
            if hasattr(module, "app"):  # a group of verbs
                self.commands[cmd_name] = typer.main.get_command(module.app)
                self.commands[cmd_name].name = cmd_name
            else:
                sub = typer.Typer(**SETTINGS)
                main = module.main if cmd_name in READ_NOTHING else _with_budget(module.main)
                sub.command(name=cmd_name)(main)
                self.commands[cmd_name] = typer.main.get_command(sub)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The one-liners come from the table, so that listing them imports nothing."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.table[name][1]) for name in self.list_commands(ctx)])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.table:  # Typer itself suggests only commands that are loaded already
            hint = did_you_mean(args[0], self.list_commands(ctx)) or "`attn --help` lists the commands."
            raise UsageError(f"no command named {args[0]!r}. {hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Typer would leave with 1, "failed", where the reader of stdout went away: `| head`."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes
            raise SystemExit(EXIT_PIPE) from None

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *rest: Any, **extra: Any) -> Any:
        argv = list(sys.argv[1:] if args is None else args)
        verbose = bool({"-v", "--verbose"} & set(argv))
        try:
            if argv and argv[0] in self.table and {"-h", "--help"} & set(argv[1:]):  # help needs no value conversion
                return self.get_command(None, argv[0]).main(
                    argv[1:], prog_name=f"{prog_name or 'attn'} {argv[0]}", **extra
                )
            return super().main(argv, prog_name, *rest, **extra)
        except AttnError as error:
            if verbose:
                raise
            say(f"attn: {error}", err=True)
            raise SystemExit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED) from None
        except Exception as error:
            if verbose:
                raise
            text = " ".join(str(error).split())
            say(f"attn: internal error, {type(error).__name__}: {text}. Please report it (-v shows where)", err=True)
            raise SystemExit(EXIT_FAILED) from None
