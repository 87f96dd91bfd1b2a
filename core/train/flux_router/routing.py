"""A language model whose layers are routed: a router per layer decides at prefill, and decoding keeps to it.

Paper: arXiv 2604.07394. Specification: methods/flux-attention.md, sections 3.1 to 3.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...attention import attention
from ...attention.flux.router import LayerRouter
from ...attention.in_models.masks import decoded, describe
from ...errors import UsageError
from ...io.weights import check_architecture, read_weights, write_weights
from ...models.family import attention_places, heads_of, layout_of

FORMAT, VERSION = "attn-flux-router", 1
_NAME = "attn-flux-routed"


@dataclass(frozen=True, slots=True)
class RouterShape:
    """What routers were made for.

    Parameters
    ----------
    layers, head_dim : int
        Of the model.
    pool_size, sink, local, block_size : int, tokens
        See ``LayerRouter`` and the operator ``flux``.
    """

    layers: int
    head_dim: int
    pool_size: int
    sink: int
    local: int
    block_size: int

    @property
    def sparse(self) -> dict[str, Any]:
        """Parameters of the operator in a sparse layer."""
        return {
            "mode": "streaming", "route": "sparse", "sink": self.sink, "local": self.local,
            "block_size": self.block_size,
        }  # fmt: skip


class LayerRouters(nn.Module):
    """A router for each layer, and the multipliers of the penalty.

    Parameters
    ----------
    shape : RouterShape
    tasks : int
        Kinds of prompt, each with lam1 and lam2, drawn from [0, 0.5) (section 3.6).
    """

    def __init__(self, shape: RouterShape, tasks: int) -> None:
        super().__init__()
        self.shape = shape
        self.layers = nn.ModuleList(
            LayerRouter(shape.head_dim, pool_size=shape.pool_size) for _ in range(shape.layers)
        )  # fmt: skip
        self.multipliers = nn.Parameter(0.5 * torch.rand(tasks, 2))


@dataclass(slots=True)
class Routes:
    """Where the layers went in the newest prompts.

    Parameters
    ----------
    full : list of Tensor [B]
        Of each layer: 1 full, 0 sparse; in training with a gradient.
    fixed : sequence of bool, optional
        Of each layer, in place of the routers: whether it is full.
    tau : float
        Temperature in training.
    """

    full: list[Tensor]
    fixed: Sequence[bool] | None = None
    tau: float = 1.0
    queries: dict[int, Tensor] = field(default_factory=dict)


_OPEN: dict[int, tuple[int, LayerRouters | None, RouterShape, Routes]] = {}
"""Attention modules that are routed now, by id."""


@contextmanager
def routed(
    model: Any, routers: LayerRouters | None, shape: RouterShape, *, fixed: Sequence[bool] | None = None
) -> Iterator[Routes]:  # fmt: skip
    """Within it the model's layers are routed: at each prefill anew, in decoding as the prefill decided.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model of transformers. Prompts have no padding.
    routers : LayerRouters, optional
        In training mode both kinds of attention are computed and mixed.
    shape : RouterShape
        Of the sparse layers.
    fixed : sequence of bool, optional
        Routes that do not depend on the prompt, one per layer: whether it is full.

    Raises
    ------
    UsageError
        If the model has another number of layers, other heads, or an attention that attn does not know.
    """
    from transformers.masking_utils import AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    places = attention_places(model, "all")
    if len(places) != shape.layers or (fixed is not None and len(fixed) != shape.layers):
        raise UsageError(f"the routers are of {shape.layers} layers, the model has {len(places)}.")
    AttentionInterface.register(_NAME, _attend)
    AttentionMaskInterface.register(_NAME, describe)
    routes = Routes([torch.empty(0)] * shape.layers, fixed)
    with ExitStack() as stack:
        config = model.config
        stack.callback(setattr, config, "_attn_implementation", config._attn_implementation)
        config._attn_implementation = _NAME
        for index, place in enumerate(places):
            module: Any = place.module
            layout = layout_of(module)
            last = next((name for name in layout.qk_norms if hasattr(module, name)), layout.query)
            heads = heads_of(module)
            if shape.head_dim != module.head_dim:
                raise UsageError(
                    f"the routers are for heads of {shape.head_dim}, the model's are of {module.head_dim}."
                )

            def keep(_: nn.Module, __: Any, out: Tensor, index: int = index, heads: int = heads) -> None:
                routes.queries[index] = out.reshape(*out.shape[:2], heads, -1).transpose(1, 2)

            stack.callback(module.get_submodule(last).register_forward_hook(keep).remove)
            stack.callback(_OPEN.pop, id(module), None)
            _OPEN[id(module)] = (index, routers, shape, routes)
        yield routes


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    *, scaling: float | None = None, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Section 3.3: an attention function of transformers' ``AttentionInterface``."""
    index, routers, shape, routes = _OPEN[id(module)]
    seen = None if attention_mask is None else decoded(attention_mask)
    if attention_mask is not None and (
        seen is None
        or len(seen) != len(query)
        or any(one.first or one.stop != one.written or one.window for one in seen)
    ):
        raise ValueError("routed layers take prompts without padding, windows or masks of one's own.")
    written = key.shape[2] if seen is None else seen[0].written
    key, value = key[:, :, :written], value[:, :, :written]
    if query.shape[2] == written:  # prefill
        if routes.fixed is not None or routers is None:
            routes.full[index] = query.new_full((len(query),), float(routes.fixed is None or routes.fixed[index]))
        else:
            routes.full[index] = routers.layers[index](routes.queries[index], tau=routes.tau).full
    full = routes.full[index]
    if len(full) != len(query):
        raise ValueError(f"{len(query)} sequences go on, of which {len(full)} were routed: give the prompt first.")

    def dense(rows: Any) -> Any:
        return attention("dense", query[rows], key[rows], value[rows], causal=True, scale=scaling)

    def sparse(rows: Any) -> Any:
        return attention("flux", query[rows], key[rows], value[rows], causal=True, scale=scaling, **shape.sparse)

    out: Tensor
    whole = slice(None)
    if full.requires_grad:
        share = full[:, None, None, None]
        out = share * dense(whole) + (1 - share) * sparse(whole)
    elif bool((full > 0.5).all()):
        out = dense(whole)
    elif not bool((full > 0.5).any()):
        out = sparse(whole)
    else:  # 9.4: each sample by itself
        out = query.new_empty(*query.shape[:3], value.shape[-1])
        for rows, run in ((full > 0.5, dense), (full <= 0.5, sparse)):
            out[rows] = run(rows)
    return out.transpose(1, 2).contiguous(), None


def write_routers(path: Path, routers: LayerRouters, facts: Mapping[str, Any]) -> None:
    """Write a model file, atomically; float16."""
    tasks = len(routers.multipliers)
    described = {
        "format": FORMAT, "version": VERSION, "architecture": {**asdict(routers.shape)}, "tasks": tasks,
        "training": dict(facts),
    }  # fmt: skip
    write_weights(path, routers.state_dict(), described)


def read_routers(path: Path) -> LayerRouters:
    """The routers of a model file of ``write_routers``, in eval mode. Raises ``UsageError`` for anything else."""

    def build(described: dict[str, Any], state: dict[str, Tensor]) -> LayerRouters:
        shape, tasks = RouterShape(**described["architecture"]), int(described["tasks"])
        sizes = {"layers": shape.layers, "head_dim": shape.head_dim, "tasks": tasks}
        check_architecture(sizes, lambda: LayerRouters(shape, tasks), state)
        routers = LayerRouters(shape, tasks)
        routers.load_state_dict(state)
        return routers.eval()

    return read_weights(path, FORMAT, VERSION, build, what="router file of attn. `attn train flux-router` makes one")
