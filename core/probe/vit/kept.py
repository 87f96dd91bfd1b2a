"""What a plain pass of an image transformer leaves behind, and the hooks that keep it or put other things there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...models.family import Place, layout_of


@dataclass(frozen=True, slots=True)
class Says:
    """What a model says of pictures.

    Parameters
    ----------
    logits : Tensor [B, C] or None
        None: it is no classifier.
    feature : Tensor [B, D]
        The class token behind the last norm; of a model without one, its pooled feature.
    """

    logits: Tensor | None
    feature: Tensor


@dataclass(slots=True)
class Kept:
    """What one layer worked on in the plain pass.

    Parameters
    ----------
    hidden : Tensor [B, N, D]
        What came into the block.
    context : Tensor [B, N, H * d]
        The heads' outputs side by side, in front of the output projection.
    out : Tensor [B, N, D]
        What the attention gave.
    q, k : Tensor [B, H or fewer, N, d]
        As the softmax sees them.
    scale : float
        Factor on q kᵀ.
    mask, causal
        What else is on the logits.
    even : Tensor [B, H * d]
        What each head gives under attention of 1 / N: the mean of its values.
    others : tuple
        What the attention returns behind ``out``, as nothing; empty where it returns ``out`` alone.
    tupled : bool
        The block returns a tuple.
    """

    hidden: Tensor = field(default_factory=lambda: torch.empty(0))
    context: Tensor = field(default_factory=lambda: torch.empty(0))
    out: Tensor = field(default_factory=lambda: torch.empty(0))
    q: Tensor = field(default_factory=lambda: torch.empty(0))
    k: Tensor = field(default_factory=lambda: torch.empty(0))
    scale: float = 1.0
    mask: Tensor | None = None
    causal: bool = False
    even: Tensor = field(default_factory=lambda: torch.empty(0))
    others: tuple[None, ...] = ()
    tupled: bool = False


@dataclass(frozen=True, slots=True)
class Plain:
    """A plain pass, that others begin from.

    Parameters
    ----------
    pixels : Tensor [B, C, h, w]
    embedded : list of Tensor
        What the convolutions in front of the blocks gave.
    layers : list of Kept
    """

    pixels: Tensor
    embedded: list[Tensor]
    layers: list[Kept]


def keep(stack: ExitStack, place: Place, of: Kept) -> None:
    """Hooks that fill ``of``."""

    def came(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        of.hidden = args[0] if args else kwargs["hidden_states"]

    def gave(_: nn.Module, args: Any, out: Any) -> None:
        of.out, *others = out if isinstance(out, tuple) else (out,)
        of.others = (None,) * len(others)
        if not layout_of(place.module).output:
            of.context = of.out

    def projected(_: nn.Module, args: tuple[Any, ...]) -> None:
        of.context = args[0]

    def done(_: nn.Module, args: Any, out: Any) -> None:
        of.tupled = isinstance(out, tuple)

    stack.callback(place.block.register_forward_pre_hook(came, with_kwargs=True).remove)
    stack.callback(place.block.register_forward_hook(done).remove)
    stack.callback(place.module.register_forward_hook(gave).remove)
    if name := layout_of(place.module).output:
        stack.callback(place.module.get_submodule(name).register_forward_pre_hook(projected).remove)


def at_heads(stack: ExitStack, place: Place, change: Callable[[Tensor], Tensor]) -> None:
    """Change the heads' outputs side by side, on their way to the output projection."""
    layout = layout_of(place.module)
    if layout.query == "in_proj_weight":
        raise UsageError(f"{type(place.module).__name__}: its heads can be set to zero, to nothing else.")
    if layout.output:
        projection = place.module.get_submodule(layout.output)
        hook = projection.register_forward_pre_hook(lambda _, args: (change(args[0]), *args[1:]))
    else:
        hook = place.module.register_forward_hook(
            lambda _, args, out: (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)
        )
    stack.callback(hook.remove)


def pass_on(tupled: bool, *args: Any, **kwargs: Any) -> Any:
    hidden = args[0] if args else kwargs["hidden_states"]
    return (hidden,) if tupled else hidden


def replace_forward(stack: ExitStack, module: nn.Module, forward: Callable[..., Any]) -> None:
    own = vars(module).get("forward")
    module.forward = forward  # type: ignore[assignment]
    if own is None:
        stack.callback(delattr, module, "forward")
    else:
        stack.callback(setattr, module, "forward", own)
