"""An option stated once: bounds, choices, texts, names and the identity of a run come from the same field."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import re
from dataclasses import MISSING, dataclass, field, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

import attn.core
from attn.core.denoise.base import FitOptions
from attn.core.errors import UsageError
from attn.core.options import Option, OptionError, build, check, identity, stated


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


@dataclass(frozen=True, slots=True)
class Optimiser:
    rate: Annotated[float, Option("Rate.", above=0, below=1)] = 0.1
    epochs: Annotated[int, Option("Passes.", least=1, most=10, resumable=True)] = 3

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True)
class Toy:
    data: Annotated[Path, Option("Where.")]
    optimiser: Optimiser = field(default_factory=Optimiser)
    shape: Annotated[tuple[int, ...], Option("Sizes.", name="--size", parse=numbers, text="1,2")] = (1, 2)
    kind: Annotated[Literal["plain", "guided"], Option("Kind.")] = "plain"
    names: Annotated[tuple[str, ...] | None, Option("Of these.", choices=("sdm", "mlm"))] = None
    free: int = 7

    def __post_init__(self) -> None:
        check(self)


def test_options_are_flat_and_in_order() -> None:
    assert [option.field for option in stated(Toy)] == ["data", "rate", "epochs", "shape", "kind", "names"]
    assert [option.flag for option in stated(Toy)][3:5] == ["--size", "--kind"]


def test_one_name_twice_is_a_fault_of_ours() -> None:
    @dataclass(frozen=True)
    class Twice:
        first: Optimiser = field(default_factory=Optimiser)
        rate: Annotated[int, Option("Again.")] = 1

    Twice.__annotations__ = {"first": Optimiser, "rate": Annotated[int, Option("Again.")]}
    with pytest.raises(TypeError, match="states rate twice"):
        stated(Twice)


def test_build_parses_texts_and_fills_bundles() -> None:
    toy = build(Toy, {"data": "here", "rate": 0.5, "shape": "3,4,5"})
    assert toy == Toy(Path("here"), Optimiser(rate=0.5), (3, 4, 5))
    assert build(Toy, {"data": "here", "names": ["mlm"]}).names == ("mlm",)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"^data: it must be given"),
        ({"data": "x", "epoch": 3}, r"no option named 'epoch'. Did you mean epochs\?"),
        ({"data": "x", "epochs": 11}, "epochs: 11 is too large. It is at most 10"),
        ({"data": "x", "epochs": 2.5}, "epochs: 2.5 is no whole number"),
        ({"data": "x", "epochs": True}, "epochs: True is no whole number"),
        ({"data": "x", "epochs": None}, "epochs: None is no whole number"),
        ({"data": "x", "rate": 1.0}, "rate: 1.0 is too large. It is below 1"),
        ({"data": "x", "rate": float("nan")}, "rate: nan is no number to work with"),
        ({"data": "x", "shape": "3,x"}, "shape: invalid literal"),
        ({"data": "x", "kind": "guidd"}, r"kind: 'guidd' is no choice. Did you mean guided\?"),
        ({"data": "x", "names": ["sdn"]}, r"names: 'sdn' is no choice. Did you mean sdm\?"),
    ],
)
def test_what_an_option_cannot_be(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(Toy, values)


def test_a_message_names_fields_or_flags_and_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(OptionError("{kind}: not with {shape} of {1, 2}.")))
    assert str(error) == "kind: not with shape of {1, 2}."
    assert error.named({option.field: option.flag for option in stated(Toy)}.__getitem__).startswith(
        "--kind: not with --size"
    )


def test_identity_is_all_but_what_a_resumed_run_may_change() -> None:
    one = identity(Toy(Path("x"), Optimiser(epochs=3)))
    assert one == identity(Toy(Path("x"), Optimiser(epochs=9)))
    assert one != identity(Toy(Path("x"), Optimiser(rate=0.2)))
    assert one["rate"] == 0.1
    assert not {"optimiser", "epochs"} & one.keys()
    assert one["free"] == 7


def options_classes() -> list[type]:
    """Every dataclass of core's option files."""
    names = [
        module.name
        for module in pkgutil.walk_packages(attn.core.__path__, "attn.core.")
        if re.search(r"\.(options|bundles)(\.|$)", module.name)
    ]
    modules = [importlib.import_module(name) for name in names if name != "attn.core.options"]
    classes = {kind for module in modules for kind in vars(module).values() if is_dataclass(kind)}
    return sorted((kind for kind in classes if isinstance(kind, type) and stated(kind)), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", options_classes(), ids=lambda kind: kind.__name__)
def test_every_options_class_checks_its_numbers(kind: type) -> None:
    for option in stated(kind):
        if option.type in (int, float) and kind is not FitOptions:  # which DenoiseOptions checks: see there
            given: dict[str, Any] = {other.field: "x" for other in stated(kind) if other.default is MISSING}
            if any(other.field == "inputs" for other in stated(kind)):
                given["inputs"] = ("x",)  # an empty list is refused first
            message = "no number to work with" if option.type is float else "no whole number"
            with pytest.raises(UsageError, match=message):
                build(kind, {**given, option.field: float("nan")})
