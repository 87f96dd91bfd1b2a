"""The man pages, written from the command tree itself: what `--help` says is what `man` says.

Pages carry no date and do not depend on the terminal, so that man/ changes only when the command line does.
"""

from __future__ import annotations

import importlib
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import typer
from typer.core import TyperGroup

import attn
from attn.core.io.atomic import atomic_path

Pairs = Sequence[tuple[str, str]]


def write_man_pages(directory: str | Path) -> list[Path]:
    """Write attn.1 and one page per command into ``directory``, which is made if missing; returns the files."""
    from . import main

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    modules = {name: module for name, (module, _) in main.COMMANDS.items()}
    written = []
    for name, text in pages(main.app, main, modules).items():
        written.append(directory / name)
        with atomic_path(written[-1]) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return written


def pages(app: typer.Typer, root: ModuleType, modules: Mapping[str, str]) -> dict[str, str]:
    """File name → page, for the root and every visible command and verb.

    Parameters
    ----------
    app : typer.Typer
    root : module
        May define EXIT_STATUS, ENVIRONMENT and FILES (pairs of term and text, for every page), NOTES (paragraphs) and
        EXAMPLES (pairs of command line and what it does) for its own page.
    modules : mapping of str to str
        Command → module, which may define ENVIRONMENT and FILES (added to those of ``root``), NOTES, and EXAMPLES:
        pairs, or in a group of verbs a dict of pairs by verb ("" for the group's own page). Where the verbs are rows
        of a registry, ``verbs()`` gives what each says of itself.
    """
    tree = list(_walk(typer.main.get_command(app), "attn"))
    names = [name for name, _ in tree]
    written = {}
    for name, command in tree:
        _, top, *verb = [*name.split(), ""]
        home = importlib.import_module(modules[top]) if top in modules else root
        row = getattr(home, "verbs", dict[str, Any])().get(" ".join(verb).strip())
        sources: list[Any] = [root] if home is root else [root, home if row is None else row]
        sections: dict[str, Pairs] = {
            "EXIT STATUS": getattr(root, "EXIT_STATUS", ()),
            "ENVIRONMENT": [pair for source in sources for pair in getattr(source, "ENVIRONMENT", ())],
            "FILES": [pair for source in sources for pair in getattr(source, "FILES", getattr(source, "files", ()))],
        }
        examples = getattr(home, "EXAMPLES", ()) if row is None else row.examples
        if isinstance(examples, Mapping):
            examples = examples.get(" ".join(verb).strip(), ())
        body = [line for title, pairs in sections.items() for line in _section(title, pairs)]
        if notes := getattr(home, "NOTES", ()) if row is None else row.notes:
            body += [".SH NOTES", *_paragraphs("\n\n".join(notes))]
        body += _examples(examples)
        if related := _related(name, names):
            body += [".SH SEE ALSO", " ,\n".join(rf".BR {_text(other.replace(' ', '-'))} (1)" for other in related)]
        written[f"{name.replace(' ', '-')}.1"] = "\n".join([*_head(name, command), *body]) + "\n"
    return written


def _walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The command and everything visible below it, with full names."""
    yield name, command
    if isinstance(command, TyperGroup):
        context = command.make_context(name, [], resilient_parsing=True)
        for child in command.list_commands(context):
            subcommand = command.get_command(context, child)
            if subcommand is not None and not subcommand.hidden:
                yield from _walk(subcommand, f"{name} {child}")


def _related(name: str, names: Iterable[str]) -> list[str]:
    """Parent, children and siblings."""
    parent = name.rpartition(" ")[0]
    near = {other for other in names if other == parent or other.rpartition(" ")[0] in {name, parent or name}}
    return sorted(near - {name})


def _head(name: str, command: Any) -> list[str]:
    """From the title to the options: what the command itself knows."""
    context = command.make_context(name, [], resilient_parsing=True)
    dashed = name.replace(" ", "-")
    lines = [
        f'.TH "{_text(dashed).upper()}" "1" "" "attn {_text(attn.__version__)}" "User Commands"',
        ".nh",  # no hyphenation: it would tear option names apart
        ".ad l",
        ".SH NAME",
        rf"{_text(dashed)} \- {_text(_summary(command).removesuffix('.'))}",
        ".SH SYNOPSIS",
        rf"\fB{_text(name)}\fR {_text(' '.join(command.collect_usage_pieces(context)))}",
        ".SH DESCRIPTION",
        *_paragraphs(command.help or ""),
    ]
    records: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
    for parameter in command.get_params(context):
        if record := parameter.get_help_record(context):
            kind, (term, text) = parameter.param_type_name, record
            if kind == "argument":
                term = re.sub(r" <[^<>]+>$", "", term)  # Typer appends the Python type, as in "INPUT <list[str]>"
            records[kind].append((term, text))
    lines += _section("ARGUMENTS", records["argument"])
    if isinstance(command, TyperGroup):
        children = ((child, command.get_command(context, child)) for child in command.list_commands(context))
        one_line = [
            (child, _summary(subcommand)) for child, subcommand in children if subcommand and not subcommand.hidden
        ]
        lines += _section("COMMANDS", one_line)
    lines += _section("OPTIONS", records["option"])
    return lines


def _examples(examples: Pairs) -> list[str]:
    """What an example does, then its command line, verbatim and indented."""
    lines: list[str] = []
    for command, what in examples:
        lines += [".PP", *_wrapped(what), ".PP", ".RS 4", ".nf", rf"\fB{_text(command)}\fR", ".fi", ".RE"]
    return [".SH EXAMPLES", *lines[1:]] if lines else []


def _section(title: str, pairs: Iterable[tuple[str, str]]) -> list[str]:
    """A titled list of terms and what they mean."""
    lines = [line for term, text in pairs for line in (".TP", rf"\fB{_text(term)}\fR", *_wrapped(text))]
    return [f".SH {title}", *lines] if lines else []


def _paragraphs(text: str) -> list[str]:
    """Help text as roff: blank lines part paragraphs; a paragraph that begins with a backspace keeps its lines."""
    lines: list[str] = []
    for block in re.split(r"\n\s*\n", text.strip()):
        rows = block.strip("\n").splitlines()
        if rows and rows[0].strip() == "\b":
            lines += [".PP", ".nf", *(_line(row) for row in rows[1:]), ".fi"]
        elif rows:
            lines += [".PP", *_wrapped(block)]
    return lines[1:]  # the heading above already begins a paragraph


def _summary(command: Any) -> str:
    """The first paragraph of a command's help, on one line."""
    return " ".join((command.help or "").strip().partition("\n\n")[0].split())


def _wrapped(text: str) -> list[str]:
    """Running text in source lines of less than 80 characters, as manual page checkers ask for."""
    lines = textwrap.wrap(" ".join(text.split()), 66, break_long_words=False, break_on_hyphens=False)
    return [_line(line) for line in lines]


def _line(text: str) -> str:
    """One line of text, safe at the beginning of a line, where a dot or an apostrophe would be a request."""
    text = _text(text)
    return rf"\&{text}" if text.startswith((".", "'")) else text


def _text(text: str) -> str:
    """Escape what roff gives a meaning; quotes and dashes stay the ASCII ones that a shell understands."""
    return "".join(_ROFF.get(c, c if c.isascii() else rf"\[u{ord(c):04X}]") for c in text)


_ROFF = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti", '"': r"\(dq"}
