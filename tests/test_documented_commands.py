"""Every ``attn`` command that README, man pages, examples and the pages of figures print is one that ``attn`` takes.

Commands are parsed by the real command tree, with its options, choices and numbers, and not run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from attn.cli.main import app
from attn.core.errors import UsageError

ROOT = Path(__file__).parent.parent
ROOT_COMMAND = typer.main.get_command(app)
PAGES = sorted([ROOT / "README.md", *(ROOT / "tests/benchmarks").glob("*.md")])
SCRIPTS = sorted((ROOT / "examples").glob("*.sh"))
MANUALS = sorted((ROOT / "man").glob("*.1"))
OPERATORS_OF_A_SHELL = frozenset("();<>|&")


def in_markdown(text: str) -> Iterator[str]:
    """Lines of blocks of code, and spans that begin with ``attn`` (or variables and it) and are more than its name."""
    blocks = re.split(r"^```.*$", text, flags=re.M)
    for block in blocks[1::2]:
        yield from in_script(block)
    for prose in blocks[::2]:
        for span in re.findall(r"`([^`]+)`", prose):
            words = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", span).split()
            if words[:1] == ["attn"] and words[len(named(words[1:])) + 1 :]:
                yield " ".join(words)


def named(words: list[str]) -> list[str]:
    """The command, or group and verb, that the words begin with: on their own they are its name and no call of it."""
    below = ROOT_COMMAND.get_command(None, words[0]) if words else None
    return words[: 2 if hasattr(below, "commands") and words[1:] and not words[1].startswith("-") else 1]


def in_script(text: str) -> Iterator[str]:
    """Lines of a shell script, continued ones joined, comments and here-documents left out."""
    text = re.sub(r"<<'(\w+)'\n.*?^\1$", "", text, flags=re.M | re.S)
    for line in text.replace("\\\n", " ").splitlines():
        if re.search(r"\battn ", line) and not line.lstrip().startswith("#"):
            yield line.strip()


def in_manual(text: str) -> Iterator[str]:
    """The bold lines of EXAMPLES, as a reader sees them."""
    for line in re.findall(r"^\\fB(.+)\\fR$", text.partition(".SH EXAMPLES")[2], flags=re.M):
        yield line.replace(r"\-", "-").replace(r"\(dq", '"').replace(r"\(aq", "'").replace(r"\e", "\\")


def calls(line: str) -> Iterator[list[str]]:
    """The arguments of every ``attn`` in a line of shell: pipes and lists come apart, redirections and comments go."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""  # a # inside of a word, as in file.npz#key, is part of it
    words: list[str] = []
    found = [words]
    redirected = False
    for word in lexer:
        if word.startswith("#"):
            break
        if set(word) <= OPERATORS_OF_A_SHELL:
            redirected = bool(set(word) & set("<>"))
            if not redirected:
                found.append(words := [])
        elif redirected:
            redirected = False
        else:
            words.append(word)
    yield from (command[1:] for command in found if command[:1] == ["attn"])


def refusal(arguments: list[str]) -> str:
    """What ``attn`` says of these arguments before it looks at any file; "" where it takes them."""
    try:
        parse(ROOT_COMMAND, "attn", arguments)
    except UsageError as error:
        return str(error)
    except Exception as error:
        if not hasattr(error, "format_message"):  # Typer's own have it: an option or a value that it does not take
            raise
        return error.format_message()
    return ""


def parse(command: Any, name: str, arguments: list[str]) -> None:
    """Down the tree of commands, each with its own part of the arguments."""
    group = hasattr(command, "commands")
    if not group and arguments and set(arguments) <= {"-h", "--help"}:
        return  # would print it and leave
    with command.make_context(name, list(arguments)) as context:
        if group and (rest := [*context._protected_args, *context.args]):
            below, child, remaining = command.resolve_command(context, rest)
            parse(child, below, remaining)


def documented() -> list[Any]:
    kinds = ((PAGES, in_markdown), (SCRIPTS, in_script), (MANUALS, in_manual))
    return [pytest.param(path, read, id=str(path.relative_to(ROOT))) for paths, read in kinds for path in paths]


@pytest.mark.parametrize(("path", "read"), documented())
def test_documented_commands_are_taken(path: Path, read: Any) -> None:
    found = [(line, arguments) for line in read(path.read_text(encoding="utf-8")) for arguments in calls(line)]
    assert found or path.name == "mutation.md", "no command found"  # that page is about our tests alone
    for line, arguments in found:
        assert not refusal(arguments), line


def test_readme_fits_a_first_screen_and_links_lead_somewhere() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 8192
    for page in PAGES:
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (page.parent / target).exists(), (page.name, target)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("attn denoise scan.dcm --figures", "No such option"),
        ("attn denoise scan.dcm --quality QUALITY", "QUALITY"),
        ("attn denoise scan.dcm --steps many", "--steps"),
        ("find . -print0 | attn denoise - --nul -o out/", "No such option"),
        ("attn retrieve serch photos.index bear", "serch"),
        ("attn retrieve similar", "Missing argument"),
        ("attn retrieve export photos.index", "Missing option"),
        ("attn retrieve dedup photos.index two", "unexpected extra argument"),
        ("attn denoize scan.dcm", "denoize"),
        ("attn train fsgnet -o run/ --data", "requires an argument"),
    ],
)
def test_the_checker_refuses(line: str, said: str) -> None:
    (arguments,) = calls(line)
    assert said in refusal(arguments)


def test_lines_of_shell_come_apart() -> None:
    line = """pip install . && attn denoise 'a b.dcm' "x.npz#k" -o "$out/c.dcm" --json > r.json  # then # more"""
    assert list(calls(line)) == [["denoise", "a b.dcm", "x.npz#k", "-o", "$out/c.dcm", "--json"]]
    assert list(calls("find . | attn denoise - 2>&1 | head")) == [["denoise", "-", "2"]]
    assert list(in_markdown("Use `attn bench\n--seq 4k`, `attn bench` or:\n```sh\nattn doctor # all\n```\n")) == [
        "attn doctor # all", "attn bench --seq 4k",
    ]  # fmt: skip
    assert list(in_script("# attn no\nattn bench \\\n  --json\npython <<'PY'\nattn no\nPY\n")) == [
        "attn bench    --json"
    ]
    assert list(in_manual(".SH EXAMPLES\n\\fBattn a \\-\\-where \\(dqb = \\(aqc\\(aq\\(dq\\fR\n")) == [
        """attn a --where "b = 'c'\""""
    ]
