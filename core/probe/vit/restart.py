"""An image transformer run again from the middle: what one head less does costs only the layers above it.

Specification: methods/vit-analytics.md, sections 3.1 and 7. A head is taken out in front of the output projection of
its layer. What came into each block and each projection is kept from one plain pass; a pass with other heads begins
behind the attention of the layer whose heads they are, several of them as rows of one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...models.family import attention_places, heads_of, layout_of
from ...models.geometry import token_layout
from ...models.hooks import capture, edit, operands
from ...models.softmax import Operands
from .kept import Kept, Plain, Says, at_heads, keep, pass_on, replace_forward

Ablation = Literal["zero", "uniform", "mean"]


class HeadSite:
    """The layers of an image transformer and the way from the last one to what it says.

    Parameters
    ----------
    model : Module
        In eval mode.

    Raises
    ------
    UsageError
        If it has no attention that is known, several towers, or heads that cannot be reached.
    """

    def __init__(self, model: nn.Module) -> None:
        name = type(model).__name__
        self.model, self.places = model, attention_places(model)
        if [place.number for place in self.places] != list(range(len(self.places))):
            raise UsageError(f"{name} has several towers of attention: give the model of images alone.")
        if any(place.block is place.module for place in self.places):
            raise UsageError(f"{name} has no numbered layers, whose heads could be taken out one by one.")
        heads = {heads_of(place.module) for place in self.places}
        if any(getattr(place.module, "batch_first", True) is False for place in self.places):
            raise UsageError(f"{name} has its tokens in front of its batch, which attn cannot run from the middle.")
        if len(heads) > 1:
            raise UsageError(f"{name} has layers of {', '.join(map(str, sorted(heads)))} heads: one number is wanted.")
        self.heads = heads.pop()
        self.prefix, registers, _ = token_layout(model)
        self.has_class = self.prefix > registers
        inside = {id(module) for place in self.places for module in place.block.modules()}
        outside = [module for module in model.modules() if id(module) not in inside]
        self.norms = [module for module in outside if type(module).__name__.endswith("Norm")]
        self.embeddings = [module for module in outside if isinstance(module, nn.Conv2d)]

    @property
    def depth(self) -> int:
        return len(self.places)

    @property
    def gates(self) -> bool:
        """Factors on its heads may require a gradient."""
        return all(layout_of(place.module).query != "in_proj_weight" for place in self.places)

    def says(self, pixels: Tensor) -> Says:
        """One pass over [B, C, h, w]. Raises ``UsageError`` where it cannot be read."""
        last: list[Tensor] = []
        with ExitStack() as stack:
            for norm in self.norms:
                stack.callback(norm.register_forward_hook(lambda _, args, out: last.append(out)).remove)
            stack.callback(self.places[-1].block.register_forward_hook(lambda *_: last.clear()).remove)
            output: Any = self.model(pixels)
        logits = getattr(output, "logits", None)
        if not isinstance(logits, Tensor) and isinstance(output, Tensor) and getattr(self.model, "num_classes", 0) > 0:
            logits = output  # timm: with a head
        return Says(logits if isinstance(logits, Tensor) else None, self._feature(output, last))

    def _feature(self, output: Any, normed: Sequence[Tensor]) -> Tensor:
        """[B, D], of what the norms behind the last block gave, or of the output."""
        pooled = getattr(output, "pooler_output", None)
        if isinstance(pooled, Tensor) and not self.has_class:
            return pooled
        hidden = normed[-1] if normed else getattr(output, "last_hidden_state", output)
        if not isinstance(hidden, Tensor) or hidden.ndim not in (2, 3):
            raise UsageError(f"{type(self.model).__name__} gives no feature of a picture that attn could compare.")
        if hidden.ndim == 2:
            return hidden
        return hidden[:, 0] if self.has_class else hidden[:, self.prefix :].mean(1)

    def plain(self, pixels: Tensor) -> tuple[Says, Plain]:
        """The pass that the others begin from. [B, C, h, w]"""
        embedded: list[Tensor] = []
        kept = [Kept() for _ in self.places]
        with ExitStack() as stack:
            seen = stack.enter_context(capture(self.model, what=("q", "k", "v")))
            for convolution in self.embeddings:
                stack.callback(convolution.register_forward_hook(lambda _, args, out: embedded.append(out)).remove)
            for place, of in zip(self.places, kept, strict=True):
                keep(stack, place, of)
            says = self.says(pixels)
        if len(seen) != self.depth or len(embedded) != len(self.embeddings):
            raise UsageError(f"{type(self.model).__name__} does not use each of its {self.depth} layers once.")
        for of, layer in zip(kept, seen, strict=True):
            assert layer.q is not None
            assert layer.k is not None
            assert layer.v is not None
            of.q, of.k, of.scale, of.mask, of.causal = layer.q, layer.k, layer.scale, layer.mask, layer.causal
            v = layer.v.repeat_interleave(self.heads // layer.v.shape[1], 1)
            of.even = v.mean(2).flatten(1)
            if not of.context.numel():  # torch's own projects inside its kernel
                made = Operands(layer.q, layer.k, v, layer.mask, layer.causal, layer.scale)
                of.context = (made.probabilities() @ v).transpose(1, 2).flatten(2)
        return says, Plain(pixels, embedded, kept)

    def without(
        self, plain: Plain, layer: int, heads: Tensor, ablation: Ablation = "zero", means: Tensor | None = None
    ) -> Says:
        """What the model says with other heads of a layer taken out in each row.

        Parameters
        ----------
        plain : Plain
            Of ``plain`` for these pictures.
        layer : int
        heads : Tensor of bool [R, H]
            Which heads each row is without.
        ablation : {"zero", "uniform", "mean"}
        means : Tensor [L, H * d], optional
            What stands in for a head where the ablation is ``"mean"``.

        Returns
        -------
        Says, of R * B pictures: row by row, all pictures of each.
        """
        of, rows = plain.layers[layer], len(heads)
        instead = stand_in(of.context, of.even, ablation, None if means is None else means[layer])
        parts = self._projected(layer, instead - of.context)  # [H, B, N, D]
        change = torch.einsum("rh,hbnd->rbnd", heads.to(parts), parts)
        attended = (of.out + change).flatten(0, 1)
        with self._restarted(plain, layer, rows, attended):
            return self.says(plain.pixels.repeat(rows, 1, 1, 1))

    def _projected(self, layer: int, change: Tensor) -> Tensor:
        """What a change of the heads' outputs [B, N, H d] does to what the attention gives, head by head."""
        module = self.places[layer].module
        heads = change.view(*change.shape[:-1], self.heads, -1)
        if not (name := layout_of(module).output):
            apart = torch.eye(self.heads, dtype=change.dtype, device=change.device)[:, None, None, :, None]
            alone: Tensor = (heads * apart).flatten(-2)
            return alone
        weight = module.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        return torch.einsum("bnhd,ohd->hbno", heads, weight.view(len(weight), self.heads, -1))

    @contextmanager
    def _restarted(self, plain: Plain, layer: int, rows: int, attended: Tensor) -> Iterator[None]:
        """Passes over ``rows`` times the pictures, of which all below the MLP of ``layer`` is known.

        ``attended`` [R * B, N, D] is what its attention gives.
        """
        of = plain.layers[layer]
        hidden = of.hidden.repeat(rows, 1, 1)

        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            return ((hidden, *args[1:]), kwargs) if args else ((), kwargs | {"hidden_states": hidden})

        with ExitStack() as stack:
            for convolution, out in zip(self.embeddings, plain.embedded, strict=True):
                replace_forward(stack, convolution, lambda *_, out=out: out.repeat(rows, 1, 1, 1))
            for place, below in zip(self.places[:layer], plain.layers, strict=False):
                replace_forward(stack, place.block, partial(pass_on, below.tupled))
            replace_forward(
                stack, self.places[layer].module,
                lambda *args, **kwargs: (attended, *of.others) if of.others else attended,
            )  # fmt: skip
            stack.callback(self.places[layer].block.register_forward_pre_hook(enter, with_kwargs=True).remove)
            yield

    @contextmanager
    def ablated(self, heads: Tensor, ablation: Ablation = "zero", means: Tensor | None = None) -> Iterator[None]:
        """Whole passes run without some heads of all layers.

        Parameters
        ----------
        heads : Tensor of bool [L, H]
            Those that are taken out.
        ablation, means
            See ``without``.
        """
        layers = [layer for layer in range(self.depth) if heads[layer].any()]
        if ablation == "zero":
            with edit(self.model, heads={layer: (~heads[layer]).float() for layer in layers}):
                yield
            return
        even: dict[int, Tensor] = {}

        def record(layer: int, seen: Operands) -> None:
            even[layer] = seen.v.repeat_interleave(self.heads // seen.v.shape[1], 1).mean(2).flatten(1)

        def change(layer: int, context: Tensor) -> Tensor:
            out = heads[layer].to(context).repeat_interleave(context.shape[-1] // self.heads)
            by = stand_in(context, even.get(layer), ablation, None if means is None else means[layer])
            return context + (by - context) * out

        with ExitStack() as stack:
            if layers and ablation == "uniform":
                stack.enter_context(operands(self.model, layers, record))
            for layer in layers:
                at_heads(stack, self.places[layer], partial(change, layer))
            yield


def stand_in(context: Tensor, even: Tensor | None, ablation: Ablation, means: Tensor | None) -> Tensor:
    """What heads that are taken out give instead; broadcasts to ``context`` [B, N, H d]."""
    if ablation == "zero":
        return torch.zeros_like(context)
    if ablation == "uniform":
        assert even is not None
        return even[:, None]
    assert means is not None
    return means.to(context)
