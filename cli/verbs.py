"""A command group whose subcommands are the rows of a registry: a new row is a new subcommand, and no file here."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from typing import Any

import typer

from attn.core.catalogue import registry
from attn.core.command import Verb

from .build import verb
from .lazy import SETTINGS, LazyGroup, made
from .options import JsonOption, ListOption
from .say import say

TOOLS: Mapping[str, Mapping[str, str]] = {
    "probe": {"compare": "attn.core.probe.difference:VERB", "redraw": "attn.core.probe.redraw:VERB"}
}
"""Group -> its subcommands that are no methods, and where their ``Verb`` is."""


def verbs(group: str) -> dict[str, Verb]:
    """Name → ``Verb`` of the rows of a command's registry and of its tools; nothing that they need is imported."""
    rows = {name: row.load() for name, row in registry(group).items()}
    return rows | {name: pkgutil.resolve_name(home) for name, home in TOOLS.get(group, {}).items()}


class VerbGroup(LazyGroup):
    """Subclasses set ``group``, the command whose registry it is."""

    group = ""

    @property
    def table(self) -> Mapping[str, tuple[str, str]]:  # type: ignore[override]
        return {name: (row.run, row.description.partition("\n")[0]) for name, row in verbs(self.group).items()}

    def load(self, name: str) -> Any:
        row = verbs(self.group)[name]
        command = made(name, verb(row, self.group, name))
        for parameter in command.params:
            if parameter.name == "config":
                parameter.is_eager, parameter.callback = True, _configure(row)
        return command


def _configure(row: Verb) -> Any:
    """Options from a file become the defaults of what the command line and the environment leave open."""

    def callback(context: Any, parameter: Any, value: Any) -> Any:
        if value is not None:
            from attn.core.fit.config import read_config

            context.default_map = {**(context.default_map or {}), **read_config(value, row.options)}
        return value

    return callback


def app_of(group: str, help: str) -> typer.Typer:
    """The group as Typer's application; ``--list`` lists its rows."""
    cls = type(f"{group.title().replace(' ', '')}Verbs", (VerbGroup,), {"group": group})
    app = typer.Typer(cls=cls, help=help, invoke_without_command=True, **SETTINGS)

    def callback(ctx: typer.Context, list_: ListOption = False, as_json: JsonOption = False) -> None:
        if list_:
            from .methods import list_methods

            list_methods(group, as_json=as_json)
            raise typer.Exit
        if ctx.invoked_subcommand is None:
            say(ctx.get_help(), lines=True)
            raise typer.Exit

    callback.__doc__ = help
    app.callback()(callback)
    return app
