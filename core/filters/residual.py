"""Residual branches of a module, for the initialisers that start them at 0: fixup and zero-gamma.

Specification: methods/filter-design.md, section 3.1. A branch is found, not declared: each composite module's forward
is traced one level deep (its children stay closed), and every sum of two values that have an ancestor in common is
looked at. The side with more weight layers of its own is the branch, the other is the shortcut. A module whose forward
depends on the data cannot be traced; its children still are. Inside a child that ends a branch the last layer by order
of definition is taken, which is wrong for a child that multiplies (squeeze-and-excitation as a module of its own).
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from .layers import CONVOLUTIONS, NORMS, TRANSPOSED

_WEIGHTED = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
_SUMS = (operator.add, operator.iadd, torch.add)


@dataclass(frozen=True, slots=True)
class Branch:
    """A residual branch.

    Parameters
    ----------
    last : Module
        The convolution, linear or normalisation layer next to the sum.
    weighted : tuple of Module
        Its convolution and linear layers, ``last`` included if it is one.
    """

    last: nn.Module
    weighted: tuple[nn.Module, ...]


class _OneLevel(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def residual_branches(module: nn.Module) -> list[Branch]:
    """All residual branches of a module, each once."""
    branches: dict[int, Branch] = {}
    for part in module.modules():
        if any(True for _ in part.children()):
            for branch in _branches_of(part):
                branches.setdefault(id(branch.last), branch)
    return list(branches.values())


def _branches_of(part: nn.Module) -> Iterator[Branch]:
    """The branches whose sum stands in the forward of ``part`` itself."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(part.forward).parameters.items()
        if parameter.default is not parameter.empty
    }
    try:
        graph = _OneLevel().trace(part, concrete_args=defaults)
    except Exception:  # a forward run on placeholders may raise anything; then there is nothing to learn from it
        return
    for node in graph.nodes:
        operands = [arg for arg in node.args[:2] if isinstance(arg, fx.Node)]
        if len(operands) < 2 or not _is_sum(node):
            continue
        left, right = (_ancestors(operand) for operand in operands)
        if not left & right:
            continue
        sides = [(operands[0], left - right), (operands[1], right - left)]
        layers = [_layers_of(part, graph, own) for _, own in sides]
        counts = [sum(isinstance(layer, _WEIGHTED) for layer in own) for own in layers]
        if counts[0] == counts[1]:
            continue  # two equal paths: neither is the shortcut
        side = int(counts[1] > counts[0])
        last = _nearest(part, *sides[side])
        if last is not None:
            yield Branch(last, tuple(layer for layer in layers[side] if isinstance(layer, _WEIGHTED)))


def _is_sum(node: fx.Node) -> bool:
    if node.op == "call_function":
        return node.target in _SUMS
    return node.op == "call_method" and node.target in ("add", "add_")


def _ancestors(node: fx.Node) -> set[fx.Node]:
    """``node`` and all it is computed from."""
    ancestors, todo = set(), [node]
    while todo:
        if (ancestor := todo.pop()) not in ancestors:
            ancestors.add(ancestor)
            todo.extend(ancestor.all_input_nodes)
    return ancestors


def _inside(part: nn.Module, node: fx.Node) -> list[nn.Module]:
    """Layers with weights in the child that a node calls, in the order of definition."""
    if node.op != "call_module":
        return []
    child: Any = part.get_submodule(str(node.target))
    return [
        leaf
        for leaf in child.modules()
        if isinstance(leaf, _WEIGHTED) or (isinstance(leaf, NORMS) and isinstance(leaf.weight, nn.Parameter))
    ]


def _layers_of(part: nn.Module, graph: fx.Graph, nodes: Set[fx.Node]) -> list[nn.Module]:
    return [layer for node in graph.nodes if node in nodes for layer in _inside(part, node)]


def _nearest(part: nn.Module, operand: fx.Node, own: Set[fx.Node]) -> nn.Module | None:
    """The last layer with weights on the way back from the sum: first operands first, as in ``out * gate(out)``."""
    if operand not in own:
        return None
    if layers := _inside(part, operand):
        return layers[-1]
    for node in operand.all_input_nodes:
        if (nearest := _nearest(part, node, own)) is not None:
            return nearest
    return None
