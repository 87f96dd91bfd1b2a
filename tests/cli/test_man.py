"""The man pages: kept in step with the command line, clean under the checkers, the same on every terminal."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Annotated

import pytest
import typer

from attn.cli.man import pages, write_man_pages

MAN = Path(__file__).parents[2] / "man"


def small_app() -> typer.Typer:
    settings = {"rich_markup_mode": None, "add_completion": False}
    app = typer.Typer(help="Root help.", **settings)
    verbs = typer.Typer(help="Look things up.", **settings)

    @app.command()
    def clean(
        inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files - or so.")],
        steps: Annotated[int, typer.Option("--steps", metavar="N", envvar="ATTN_STEPS", help="How long.")] = 5,
        secret: Annotated[bool, typer.Option("--secret", hidden=True)] = False,
    ) -> None:
        """Clean it.

        .dots and 'quotes' and C:\\new stay as they are.

        \b
        .kept as
          it is
        """

    @app.command(hidden=True)
    def invisible() -> None:
        """Nobody sees this."""

    @verbs.command()
    def index(gallery: Annotated[str, typer.Argument(metavar="GALLERY")]) -> None:
        """Index a gallery."""

    app.add_typer(verbs, name="retrieve")
    return app


def small_pages() -> dict[str, str]:
    root = ModuleType("root")
    root.EXIT_STATUS = (("0", "Done."), ("2", "Usage error."))  # type: ignore[attr-defined]
    root.ENVIRONMENT = (("NO_COLOR", "No colour."),)  # type: ignore[attr-defined]
    root.NOTES = ("Bind to a private interface.",)  # type: ignore[attr-defined]
    root.EXAMPLES = (("attn clean 'a b.dcm'", "Clean one file."),)  # type: ignore[attr-defined]
    return pages(small_app(), root, {})


def shown(page: str, tmp_path: Path) -> str:
    """The page as a reader sees it, without emphasis."""
    if not shutil.which("groff"):
        pytest.skip("groff is not installed")
    source = tmp_path / "page.1"
    source.write_text(page, encoding="utf-8")
    command = ["groff", "-man", "-K", "utf8", "-T", "ascii", "-P", "-cbou", "-rLL=78n", str(source)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_one_page_per_visible_command_and_verb() -> None:
    assert set(small_pages()) == {"attn.1", "attn-clean.1", "attn-retrieve.1", "attn-retrieve-index.1"}


def test_page_says_what_help_says(tmp_path: Path) -> None:
    page = small_pages()["attn-clean.1"]
    assert r"\-\-steps N" in page  # a bare hyphen is typeset as U+2010, which no shell takes when it is pasted
    text = shown(page, tmp_path)
    assert "attn-clean - Clean it\n" in text
    assert ".dots and 'quotes' and C:\\new stay as they are." in text
    assert "       .kept as\n         it is\n" in text
    assert "INPUT..." in text
    assert "--steps N" in text
    assert "ATTN_STEPS; default: 5" in text
    assert "secret" not in text
    assert text.index("EXIT STATUS") < text.index("ENVIRONMENT") < text.index("NOTES") < text.index("EXAMPLES")
    assert "attn clean 'a b.dcm'" in text
    assert "attn(1), attn-retrieve(1)" in text


def test_group_lists_its_verbs(tmp_path: Path) -> None:
    text = shown(small_pages()["attn-retrieve.1"], tmp_path)
    assert "index" in text
    assert "Index a gallery." in text
    assert "attn(1), attn-clean(1), attn-retrieve-index(1)" in text


def test_pages_do_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = small_pages()
    for name, value in {"COLUMNS": "40", "LINES": "10", "FORCE_COLOR": "1", "LANG": "de_DE.UTF-8"}.items():
        monkeypatch.setenv(name, value)
    assert small_pages() == wide


def test_man_directory_is_in_step(tmp_path: Path) -> None:
    written = write_man_pages(tmp_path)
    missing = {path.name for path in written} ^ {path.name for path in MAN.glob("*.1")}
    changed = {p.name for p in written if p.name not in missing and (MAN / p.name).read_bytes() != p.read_bytes()}
    stale = sorted(missing | changed)
    assert not stale, f"out of step with the command line: {', '.join(stale)}; run `attn man man/`"


@pytest.mark.parametrize(
    "checker", [["groff", "-man", "-ww", "-z"], ["mandoc", "-T", "lint", "-W", "warning"]], ids=str
)
def test_pages_are_clean(checker: list[str], tmp_path: Path) -> None:
    if not shutil.which(checker[0]):
        pytest.skip(f"{checker[0]} is not installed")
    files = write_man_pages(tmp_path)
    for name, text in small_pages().items():
        files.append(tmp_path / f"small-{name}")
        files[-1].write_text(text, encoding="utf-8")
    run = subprocess.run([*checker, *map(str, files)], capture_output=True, text=True, check=False)
    # pages carry no date on purpose: it would change them every day
    complaints = [line for line in (run.stdout + run.stderr).splitlines() if "missing date" not in line]
    assert not complaints, "\n".join(complaints)
