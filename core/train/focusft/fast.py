"""Fast weights: throw-away low-rank additions to upper linear layers, adapted for a few steps on the batch at hand.

Paper: FocuSFT, arXiv 2605.09932. Specification: methods/focusft.md, sections 3.3 and 3.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...options import OptionError

LAYERS = ("model.layers", "layers", "transformer.blocks")
"""Where the layers of a model are."""
PARTS = ("mlp", "self_attn", "attention", "")
"""Where, in a layer, linear layers are looked for; the last is the layer itself."""


def layers_of(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Name and layers of a causal language model. Raises ``OptionError`` where there are none."""
    for name in LAYERS:
        try:
            found = model.get_submodule(name)
        except AttributeError:
            continue
        if isinstance(found, nn.ModuleList):
            return name, found
    raise OptionError(f"{{model}}: {type(model).__name__} has no layers under {', '.join(LAYERS)}.")


def chosen_layers(count: int, layers: float | Sequence[int]) -> tuple[int, ...]:
    """Numbers of the layers with fast weights: the upper share of ``count``, or a list of them.

    Raises
    ------
    OptionError
        If a layer that is listed does not exist.
    """
    if isinstance(layers, float):
        return tuple(range(int(count * (1 - layers)), count))
    if wrong := [layer for layer in layers if layer >= count]:
        raise OptionError(f"{{fast_layers}}: the model has no layer {wrong[0]}, its last is {count - 1}.")
    return tuple(sorted(set(layers)))


def targets_of(model: nn.Module, layers: float | Sequence[int], targets: Sequence[str]) -> dict[str, nn.Linear]:
    """The linear layers that get fast weights, by their names in the model.

    Parameters
    ----------
    model : Module
    layers : float or sequence of int
        See ``chosen_layers``.
    targets : sequence of str
        Their names in ``PARTS`` of a layer. One that another adapter wraps is taken at its ``base_layer``.

    Raises
    ------
    OptionError
        If a layer has none of a name, or what it has is no ``nn.Linear`` (a quantised one is not): with the names that
        there are.
    """
    name, blocks = layers_of(model)
    found: dict[str, nn.Linear] = {}
    for number in chosen_layers(len(blocks), layers):
        for target in targets:
            place, module = _target(blocks[number], target)
            if not isinstance(module, nn.Linear):
                there = sorted(
                    {n.rpartition(".")[2] for n, m in blocks[number].named_modules() if type(m) is nn.Linear}
                )
                what = "is no plain linear layer" if module is not None else "is not there"
                raise OptionError(
                    f"{{targets}}: {target} {what} in layer {number}; its linear layers are "
                    f"{', '.join(there) or 'none'}."
                )
            found[f"{name}.{number}.{place}"] = module
    return found


def _target(block: nn.Module, target: str) -> tuple[str, nn.Module | None]:
    for part in PARTS:
        place = f"{part}.{target}" if part else target
        for whole in (f"{place}.base_layer", place):
            try:
                return place, block.get_submodule(whole)
            except AttributeError:
                continue
    return target, None


class FastWeights:
    """Low-rank additions (alpha / r) B (A x) to linear layers of a model, which holds none of them.

    They act through hooks, inside ``on``: neither the model's parameters nor their names change, so there is nothing to
    take out before a model is written.

    Parameters
    ----------
    model : Module
    layers, targets
        See ``targets_of``.
    rank, alpha : int, float

    Attributes
    ----------
    down, up : dict of str to Tensor, float32
        A [r, in] and B [out, r], by name of the linear layer. float32 whatever the model's dtype is: at rate 1 a
        half-precision B would round its steps away.
    """

    def __init__(
        self, model: nn.Module, layers: float | Sequence[int], targets: Sequence[str], *, rank: int, alpha: float
    ) -> None:
        self.model, self.rank, self.scale = model, rank, alpha / rank
        self.linear = targets_of(model, layers, targets)
        self.blocks = layers_of(model)[1]
        self.first = min(chosen_layers(len(self.blocks), layers), default=len(self.blocks))
        self.down: dict[str, Tensor] = {}
        self.up: dict[str, Tensor] = {}

    def reset(self, seed: tuple[int, ...]) -> None:
        """A uniform in ±1 / sqrt(in) (Kaiming with a = sqrt 5), B zero: before every batch."""
        generator = torch.Generator().manual_seed(int(np.random.default_rng(seed).integers(2**63)))
        for name, linear in self.linear.items():
            bound, place = 1 / math.sqrt(linear.in_features), linear.weight.device
            drawn = torch.empty(self.rank, linear.in_features).uniform_(-bound, bound, generator=generator)
            self.down[name] = drawn.to(place).requires_grad_()
            self.up[name] = torch.zeros(linear.out_features, self.rank, device=place).requires_grad_()

    @contextmanager
    def on(self) -> Iterator[None]:
        """The model with its fast weights."""
        with ExitStack() as stack:
            for name, linear in self.linear.items():
                stack.callback(linear.register_forward_hook(self._adding(name)).remove)
            yield

    def _adding(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
            down, up = self.down[name], self.up[name]
            low = F.linear(inputs[0].to(down.dtype), down)
            return out + (self.scale * F.linear(low, up)).to(out.dtype)

        return add

    def adapt(
        self, loss: Callable[[], Tensor], *, steps: int, rate: float, clip: float, together: bool = False
    ) -> list[float]:
        """Steps of plain gradient descent on A and B alone, first order; call it inside ``on``.

        Parameters
        ----------
        loss : callable
            Runs the model on the batch.
        steps : int
        rate : float
        clip : float
            Largest norm of a gradient; 0: no limit.
        together : bool
            The norm is that of all gradients together; else of each tensor by itself.

        Returns
        -------
        list of float
            Loss before each step. A step whose loss is no number is left out: its entry says so.
        """
        losses = []
        with _frozen(self.model), self._lower_once():
            for _ in range(steps):
                value = loss()
                losses.append(float(value.detach()))
                if not math.isfinite(losses[-1]):
                    continue
                tensors = [*self.down.values(), *self.up.values()]
                gradients = torch.autograd.grad(value, tensors)  # under data parallel wrappers, too, of this process
                with torch.no_grad():
                    for tensor, gradient in zip(tensors, clipped(gradients, clip, together=together), strict=True):
                        tensor -= rate * gradient
        return losses

    @contextmanager
    def _lower_once(self) -> Iterator[None]:
        """What the layers below the first fast weights give is computed by the first pass and kept: they are the same
        in all of them."""
        kept: list[Any] = []
        with ExitStack() as stack:
            for number, block in enumerate(self.blocks[: self.first]):
                forward = block.forward
                last = number == self.first - 1

                def once(*args: Any, forward: Any = forward, last: bool = last, **kwargs: Any) -> Any:
                    if kept:
                        return kept[0]
                    out = forward(*args, **kwargs)
                    if last:
                        kept.append(out)
                    return out

                stack.callback(_restore, block, block.__dict__.get("forward"))
                block.forward = once  # type: ignore[method-assign]
            yield


def _restore(block: nn.Module, own: Any) -> None:
    del block.forward
    if own is not None:  # another package had wrapped it
        block.forward = own


def clipped(gradients: Sequence[Tensor], clip: float, *, together: bool) -> list[Tensor]:
    """Gradients of norm ``clip`` at most, each by itself (g clip / (norm + 1e-12)) or all together (as torch's)."""
    if not clip:
        return list(gradients)
    norms = torch.stack([gradient.norm() for gradient in gradients])
    if together:
        factor = (clip / (norms.norm() + 1e-6)).clamp(max=1)
        return [gradient * factor for gradient in gradients]
    return [
        gradient * (clip / (norm + 1e-12)) if norm > clip else gradient
        for gradient, norm in zip(gradients, norms, strict=True)
    ]


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No graph below the fast weights: parameters ask for no gradient."""
    asked = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)
