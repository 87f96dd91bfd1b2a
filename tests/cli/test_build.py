"""The command line of an options dataclass: flags, help, completion and errors come from the same field."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from attn.cli.build import command
from attn.core.bundles import Inputs
from attn.core.errors import UsageError
from attn.core.options import Option, OptionError, check


def known(incomplete: str) -> list[str]:
    return [name for name in ("plain", "guided") if name.startswith(incomplete)]


@dataclass(frozen=True, slots=True)
class Toy:
    method: Annotated[str, Option("Which.", short="-m", complete=known)] = "plain"
    edge_weight: Annotated[float, Option("Lambda.", name="--lambda", least=0)] = 1.0
    sizes: Annotated[tuple[int, ...], Option("Sizes.", parse=lambda text: (int(text),), text="8")] = (8,)
    region: Annotated[tuple[float, ...], Option("Where.", parse=float, repeatable=True)] = ()
    augment: Annotated[bool | None, Option("Augment.", shown="photos only")] = None
    guided: Annotated[bool, Option("Guide.", negation="--plain")] = True
    plot: Annotated[Path | None, Option("Picture.")] = None

    def __post_init__(self) -> None:
        check(self)
        if self.edge_weight > 5 and self.guided:
            raise OptionError("{edge_weight}: too large with {guided}.")


SEEN: list[object] = []


def main(inputs: Inputs, options: Toy) -> None:
    """Do it.

    More of it.
    """
    SEEN[:] = [inputs, options]


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer(rich_markup_mode=None, add_completion=False)
    made.command()(command(main))
    return made


def test_values_arrive_as_the_dataclass(app: typer.Typer) -> None:
    result = CliRunner().invoke(
        app,
        [
            "a",
            "b",
            "-o",
            "out",
            "--lambda",
            "2",
            "--sizes",
            "3",
            "--region",
            "1",
            "--region",
            "2.5",
            "--no-augment",
            "--plain",
        ],
    )
    assert result.exit_code == 0, result.output
    assert SEEN == [Inputs(("a", "b"), "out"), Toy("plain", 2.0, (3,), (1.0, 2.5), False, False)]


def test_what_is_not_given_has_its_default(app: typer.Typer) -> None:
    assert CliRunner().invoke(app, ["a"]).exit_code == 0
    assert SEEN == [Inputs(("a",)), Toy()]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lambda", "9"], "--lambda: too large with --guided."),
        (["--region", "{odd}"], "--region: could not convert string to float: '{odd}'"),
        (["--region", "x"], "--region: could not convert string to float: 'x'"),
    ],
)
def test_errors_name_flags(app: typer.Typer, words: list[str], message: str) -> None:
    error = CliRunner().invoke(app, ["a", *words]).exception
    assert isinstance(error, UsageError)
    assert str(error) == message


def test_nothing_to_read(app: typer.Typer) -> None:
    assert "nothing to read" in str(CliRunner().invoke(app, []).exception)


def test_help_shows_names_defaults_and_bounds(app: typer.Typer) -> None:
    text = " ".join(CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output.split())
    for words in (
        "-m, --method", "--lambda", "x>=0", "default: 8", "--augment", "photos only",
        "--plain", "More of it.",
    ):  # fmt: skip
        assert words in text
    assert text.index("--plot") < text.index("--null")  # what serves every command comes last
