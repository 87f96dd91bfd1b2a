"""Method tables: lazy, unambiguous, helpful when a name is wrong; every entry of every command keeps the contract."""

import inspect
import subprocess
import sys

import pytest

from attn.core.attention.contract import Operator
from attn.core.catalogue import REGISTRIES, complete, registries, registry
from attn.core.command import Verb
from attn.core.errors import UsageError
from attn.core.prune.carve.method import Carve
from attn.core.prune.methods.base import Pruner
from attn.core.prune.vit.base import VitPruner
from attn.core.registry import Method, Need, Registry
from attn.core.retrieve.encoders.kind import EncoderKind
from attn.core.retrieve.tempscale import temperature

ENTRY = Method("a", home="math:sqrt", summary="s", paper="p", year=2000)
ALL = [(table.command, method) for table in registries() for method in table.values()]


def test_registering_a_name_twice_raises():
    with pytest.raises(ValueError, match="registered twice"):
        Registry("x", [ENTRY, ENTRY])


def test_unknown_name_suggests_the_nearest():
    table = Registry("denoise", [Method("filter2noise", home="math:sqrt", summary="s", paper="p", year=2025)])
    with pytest.raises(UsageError, match=r"no denoise method named 'filter2nosie'\. Did you mean filter2noise\?"):
        table["filter2nosie"]


def test_missing_package_is_named_with_the_way_to_get_it():
    method = Method(
        "m", home="math:sqrt", summary="s", paper="p", year=2000, needs=(Need("no_such_module", "no-such"),)
    )
    assert method.missing() == ["no-such"]
    with pytest.raises(UsageError, match="pip install no-such"):
        method.resolve()


def test_resolve_imports_the_home():
    assert ENTRY.resolve()(9.0) == 3.0


@pytest.mark.parametrize(("command", "method"), ALL, ids=lambda value: getattr(value, "name", value))
def test_every_method_resolves_and_says_what_it_is(command, method):
    assert method.summary
    assert method.paper
    assert 1980 < method.year <= 2026
    if not method.missing():
        home = method.resolve()
        work = next((getattr(home, name) for name in ("load", "resolve") if hasattr(home, name)), home)
        assert callable(work)


def takes(*names):
    return lambda home: list(inspect.signature(home).parameters)[: len(names)] == list(names)


HOMES = {
    "denoise": takes("image", "options", "progress"),
    "segment": takes("name", "device", "dtype"),
    "bench": lambda home: isinstance(home, Operator),
    "retrieve": lambda home: isinstance(home, EncoderKind) or home is temperature,
    "prune": lambda home: issubclass(home, Pruner | VitPruner | Carve),
    "prune modifiers": lambda home: callable(home.of),
    "prune calibrate": lambda home: isinstance(home, Verb) and callable(home.resolve()),
    "train": lambda home: isinstance(home, Verb) and callable(home.resolve()),
    "probe": lambda home: isinstance(home, Verb) and callable(home.resolve()),
}
"""What a command takes from a row's home."""


@pytest.mark.parametrize(("command", "method"), ALL, ids=lambda value: getattr(value, "name", value))
def test_every_home_is_what_its_command_uses(command, method):
    """Also where a package is missing: the file imports, and says then what it lacks."""
    assert HOMES[command](method.load())


@pytest.mark.parametrize("command", REGISTRIES)
def test_completion_offers_what_can_be_used(command):
    assert [name for name, _ in complete(command)("")] == [
        row.name for row in registry(command).values() if row.trained
    ]


def test_listing_all_methods_imports_no_torch():
    code = (
        "import sys; from attn.core.catalogue import registries; [list(t) for t in registries()];"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_catalogue_names_are_commands():
    from attn.cli.main import COMMANDS

    assert {name.split()[0] for name in REGISTRIES} <= set(COMMANDS)
