"""Dependencies point one way (DESIGN.md, section 1), between folders and between files; read from the imports."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEVELS = {
    "report": 1, "batch": 1, "io": 1,
    "attention": 2, "nets": 2, "models": 2, "filters": 2, "fit": 2, "compare": 2,
    "denoise": 3, "segment": 3, "prune": 3, "probe": 3, "retrieve": 3, "bench": 3,
    "train": 4,
}  # fmt: skip
"""Folders of core; its single files are at the bottom, but for ``compare``, which makes sections of reports. A folder
imports what is below it, and of its own level only what is no command."""
COMMANDS = {folder for folder, level in LEVELS.items() if level == 3}
ALLOWED = {("probe", "prune"), ("probe", "retrieve"), ("retrieve", "prune")}
LISTS = {"attn.core.catalogue"}
"""Names the registries of all commands, which import nothing."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("attn", *(parts[:-1] if parts[-1] == "__init__" else parts)))


FILES = {name_of(path): path for folder in ("cli", "core", "kernels") for path in sorted((ROOT / folder).rglob("*.py"))}


def imports(name: str, path: Path) -> Iterator[str]:
    """Modules of ours that a file imports, wherever in it, but for the sake of types."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing or not isinstance(node, (ast.ImportFrom, ast.Import)):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
            continue
        base = node.module or ""
        if node.level:
            up = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*up, *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            if inner in FILES:
                yield inner
            elif base in FILES:
                yield base


GRAPH = {name: sorted(set(imports(name, path)) - {name}) for name, path in FILES.items()}


def folder(name: str) -> str:
    """The folder of core that a module is in; empty for its single files."""
    parts = name.split(".")
    return parts[2] if len(parts) > 2 and parts[2] in LEVELS else ""


def may(one: str, other: str) -> bool:
    """Whether module ``one`` may import module ``other``."""
    top, target = one.split(".")[1], other.split(".")[1]
    if top != target:
        return (top, target) in {("cli", "core"), ("core", "kernels")}
    if top != "core" or one in LISTS:
        return True
    here, there = folder(one), folder(other)
    if here == there or (here, there) in ALLOWED:
        return True
    if LEVELS.get(here, 0) == LEVELS.get(there, 0) == 3:
        return False
    return LEVELS.get(here, 0) >= LEVELS.get(there, 0)


def test_folders_import_what_is_below_them():
    wrong = [f"{one} -> {other}" for one, others in GRAPH.items() for other in others if not may(one, other)]
    assert wrong == []


@pytest.mark.parametrize(
    ("one", "other", "right"),
    [
        ("attn.cli.denoise", "attn.core.denoise.run", True),
        ("attn.core.denoise.run", "attn.cli.show", False),
        ("attn.core.denoise.run", "attn.core.segment.run", False),
        ("attn.core.train.fsgnet.run", "attn.core.segment.run", True),
        ("attn.core.segment.run", "attn.core.train.fsgnet.run", False),
        ("attn.core.errors", "attn.core.io.atomic", False),
        ("attn.core.io.atomic", "attn.core.errors", True),
        ("attn.core.attention.hip.operator", "attn.core.bench.run", False),
        ("attn.kernels.bilateral", "attn.core.jit", False),
    ],
)
def test_the_rule_itself(one, other, right):
    assert may(one, other) is right


def circles() -> list[list[str]]:
    """Strongly connected components of more than one file (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in GRAPH[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for node in GRAPH:
        if node not in index:
            visit(node)
    return found


def test_no_circles_between_files():
    assert circles() == []


def test_no_file_hides_behind_an_underscore():
    """A folder's name says what its files belong to."""
    hidden = [name for name, path in FILES.items() if path.name.startswith("_") and path.name != "__init__.py"]
    assert hidden == []


def definitions(kind: type | tuple[type, ...]) -> dict[str, list[str]]:
    """Public names of core's files, and the files that define each."""
    homes: dict[str, list[str]] = {}
    for name, path in FILES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body if name.startswith("attn.core.") else ():
            if isinstance(node, kind) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(name)
    return homes


CONTRACTS: set[str] = {"Settings"}
"""Classes that several files give under one name, because a contract asks each for it."""


def test_no_two_classes_share_a_name():
    """Whoever reads ``FSGNetCheckpoint`` in a trace or a signature knows whose it is."""
    shared = {name: homes for name, homes in definitions(ast.ClassDef).items() if len(homes) > 1}
    assert {name: homes for name, homes in shared.items() if name not in CONTRACTS} == {}
    assert set(shared) >= CONTRACTS  # the list says nothing that is no longer so


def test_what_another_file_uses_is_public():
    private = [
        f"{name}: {alias.name}"
        for name, path in FILES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("attn"))
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert private == []


def test_core_names_fields_not_flags() -> None:
    """A wrong option is told by its field, which the command line spells as its flag; whole commands may be quoted."""
    named = []
    for name, path in FILES.items():
        if not name.startswith("attn.core"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("UsageError", "OptionError"):
                texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
                named += [
                    f"{path.name}:{node.lineno}: {text}"
                    for text in texts
                    if isinstance(text, str) and re.search(r"(^|[\s(])--[a-z]", re.sub(r"(attn|dask) .*", "", text))
                ]
    # the table's advice ends in its own constant, after the command's name
    assert [line for line in named if "` shows all." not in line] == []
