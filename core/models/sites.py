"""Single places of an attention module that can be changed and put back: its temperature, its heads, its forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .family import AttentionParts, heads_of, layout_of
from .softmax import Softmax


class Site(Protocol):
    """One attention module whose temperature can be set; ``restore`` leaves no trace."""

    def set(self, tau: float) -> None:
        """Divide the untouched logits by ``tau``."""

    def restore(self) -> None:
        """Put the module back as it was found."""


class Attribute:
    """BERT, Llama, CLIP and their kin: the factor on q·kᵀ is an attribute, and every kernel gets it."""

    def __init__(self, module: nn.Module, name: str) -> None:
        self.module, self.name = module, name
        self.value: float = getattr(module, name)

    def set(self, tau: float) -> None:
        setattr(self.module, self.name, self.value / tau)

    def restore(self) -> None:
        setattr(self.module, self.name, self.value)


class Projection:
    """The fallback: queries divided at their projection. Exact where logits are q·kᵀ alone; rotations are linear."""

    def __init__(self, module: nn.Module, layout: AttentionParts) -> None:
        if layout.query == "in_proj_weight":
            both = [module.in_proj_weight, module.in_proj_bias]
        else:
            linear = module.get_submodule(layout.query)
            both = [linear.weight, linear.bias]
        self.parameters = [p for p in both if isinstance(p, nn.Parameter)]
        if not self.parameters:
            raise UsageError(f"{type(module).__name__} has no query projection of its own.")
        self.parts = 3 if layout.fused else 1
        self.values = [p.data for p in self.parameters]

    def set(self, tau: float) -> None:
        for parameter, value in zip(self.parameters, self.values, strict=True):
            scaled = value.clone()
            scaled[: len(value) // self.parts] /= tau
            parameter.data = scaled

    def restore(self) -> None:
        for parameter, value in zip(self.parameters, self.values, strict=True):
            parameter.data = value


class Forward:
    """The whole forward of a module runs under a ``Softmax`` mode."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.own, self.forward = module, "forward" in vars(module), module.forward

    def set(self, tau: float) -> None:
        self.wrap(lambda: Softmax(tau))

    def wrap(self, make: Callable[[], Softmax], *, fused: bool = False) -> None:
        """Every call runs under a mode of its own.

        Parameters
        ----------
        make : callable
            Makes the mode of one call.
        fused : bool
            Its kernel must be ``scaled_dot_product_attention``.
        """

        def forward(*args: Any, **kwargs: Any) -> Any:
            with make() as mode:
                out = self.forward(*args, **kwargs)
            if not (mode.fused if fused else mode.calls):  # a kernel that hides its softmax stays as it is
                kernels = "'sdpa'" if fused else "'sdpa' or 'eager'"
                raise UsageError(
                    f"{type(self.module).__name__} runs a kernel whose logits cannot be reached. "
                    f"Load the model with attn_implementation={kernels}, if it has that."
                )
            return out

        self.module.forward = forward

    def restore(self) -> None:
        if self.own:
            self.module.forward = self.forward
        else:
            del self.module.forward


def temperature_site(module: nn.Module) -> Site:
    """How the temperature of one attention module is set.

    Raises
    ------
    UsageError
        If its class is not in the table of families.
    """
    layout = layout_of(module)
    if layout.softmax:
        return Forward(module)
    for name in ("scaling", "scale"):
        if isinstance(getattr(module, name, None), float):
            return Attribute(module, name)
    if layout.qk_norms:  # what the projection is divided by, the norm behind it takes out again
        name = type(module).__name__
        raise UsageError(f"{name} has no scaling to set in this version of transformers. Upgrade it.")
    return Projection(module, layout)


class HeadFactors:
    """The heads of one attention module, each multiplied by a factor in front of the output projection.

    Parameters
    ----------
    module : Module
    factors : Tensor, shape (H,)
        0 takes a head out (methods/vit-analytics.md, section 3.1); the bias of the projection stays. May require grad,
        but for ``torch.nn.MultiheadAttention``.

    Raises
    ------
    UsageError
        If the class is unknown or has another number of heads.
    """

    def __init__(self, module: nn.Module, factors: Tensor) -> None:
        layout, heads = layout_of(module), heads_of(module)
        if factors.shape != (heads,):
            raise UsageError(
                f"heads: {type(module).__name__} has {heads} heads, the factors are {list(factors.shape)}."
            )
        self.factors = factors
        self.weight: nn.Parameter | None = None
        if layout.query == "in_proj_weight":  # its projection is never called: torch takes the weights of it
            projection = module.get_submodule(layout.output)
            assert isinstance(projection.weight, nn.Parameter)
            self.weight, self.value = projection.weight, projection.weight.data
            self.weight.data = self._times(self.value)
        elif layout.output:
            projection = module.get_submodule(layout.output)
            self.handle = projection.register_forward_pre_hook(lambda _, args: (self._times(args[0]), *args[1:]))
        else:
            self.handle = module.register_forward_hook(lambda _, args, out: self._result(out))

    def _times(self, x: Tensor) -> Tensor:
        """[..., H * D] with every head multiplied by its factor."""
        return x * self.factors.to(x).repeat_interleave(x.shape[-1] // len(self.factors))

    def _result(self, out: Any) -> Any:
        return (self._times(out[0]), *out[1:]) if isinstance(out, tuple) else self._times(out)

    def restore(self) -> None:
        """Put the module back as it was."""
        if self.weight is not None:
            self.weight.data = self.value
        else:
            self.handle.remove()


class KeptTokens:
    """Only some tokens go on into one block.

    Parameters
    ----------
    module, block : Module
        The attention, and the layer it belongs to.
    index : Tensor of int64, shape (n,) or (B, n)
        Tokens to keep, ascending.

    Raises
    ------
    UsageError
        If the class of attention is unknown, or has positions or masks that would no longer fit.
    """

    def __init__(self, module: nn.Module, block: nn.Module, index: Tensor) -> None:
        name = type(module).__name__
        if not layout_of(module).drops or getattr(module, "is_causal", False) or block is module:
            raise UsageError(f"{name}: tokens cannot be left out inside this model: its positions would no longer fit.")
        self.index, self.name = index, name
        self.sequence = 1 if getattr(module, "batch_first", True) else 0
        self.handle = block.register_forward_pre_hook(self._cut, with_kwargs=True)

    def _cut(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        others = [*args[1:], *(value for name, value in kwargs.items() if name != "hidden_states")]
        if any(isinstance(other, (Tensor, tuple)) for other in others):
            raise UsageError(
                f"{self.name}: tokens cannot be left out here: the layer gets a mask or positions as well."
            )
        if "hidden_states" in kwargs:
            return args, kwargs | {"hidden_states": self._kept(kwargs["hidden_states"])}
        return (self._kept(args[0]), *args[1:]), kwargs

    def _kept(self, hidden: Tensor) -> Tensor:
        """[B, L, D] -> [B, n, D]; [L, B, D] where the batch is not first."""
        index = self.index.to(hidden.device)
        length = hidden.shape[self.sequence]
        if not index.numel() or int(index.min()) < 0 or int(index.max()) >= length:
            raise UsageError(f"keep: the tokens to keep must be of 0 to {length - 1}, and one at least.")
        if index.ndim == 1:
            return hidden.index_select(self.sequence, index)
        index = index if self.sequence else index.mT
        return torch.take_along_dim(hidden, index.unsqueeze(-1), self.sequence)

    def restore(self) -> None:
        """Put the block back as it was."""
        self.handle.remove()
