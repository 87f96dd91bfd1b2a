"""Pruned image classifiers as `attn train as-vit` and `attn train sparsifiner` write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...attention.sparsifiner.predictor import Rules
from ...device import pick_device, pick_dtype
from ...io.weights import check_architecture, read_weights, write_weights
from ...models.files import fingerprint
from ...models.images import ImagePreparation
from ...models.load import load_model
from ...models.loaded import Loaded, Processor
from ...nets.as_vit import AdaptiveViT
from ...nets.sparsifiner_vit import SparsifinerConfig, SparsifinerViT
from ...nets.vit import ViTShape

FORMAT, VERSION = "attn-pruned-vit", 1
KINDS = ("as-vit", "sparsifiner")
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
"""Of the channels, for values in [0, 1]."""


@dataclass(frozen=True, slots=True)
class TrainedViT:
    """A trained model.

    Parameters
    ----------
    kind : {"as-vit", "sparsifiner"}
    shape : ViTShape
    classes : tuple of str
        Their names.
    settings : mapping
        Of as-vit ``positions`` and ``thresholds``; of sparsifiner those of ``SparsifinerConfig`` beyond the shape.
    state : mapping of str to Tensor
        Without the thresholds, which float16 would move.
    training : mapping
        How it was trained, as JSON holds it.
    """

    kind: str
    shape: ViTShape
    classes: tuple[str, ...]
    settings: Mapping[str, Any]
    state: Mapping[str, Tensor]
    training: Mapping[str, Any] = field(default_factory=dict)

    def network(self) -> AdaptiveViT | SparsifinerViT:
        """The module, without its weights."""
        if self.kind == "as-vit":
            return AdaptiveViT(self.shape, self.settings["positions"], self.settings["thresholds"])
        own = dict(self.settings)
        rules, tokens = Rules(**own.pop("rules")), {int(layer): share for layer, share in own.pop("token_keep").items()}
        return SparsifinerViT(SparsifinerConfig(**asdict(self.shape), **own, rules=rules, token_keep=tokens))

    def build(self) -> AdaptiveViT | SparsifinerViT:
        """The model in eval mode, float32, as a plain ViT: a method prunes it."""
        net = self.network()
        missing, unexpected = net.load_state_dict({k: v.float() for k, v in self.state.items()}, strict=False)
        if unexpected or any(not name.startswith("thresholds.") for name in missing):
            raise ValueError("its weights are of another architecture")
        if isinstance(net, SparsifinerViT):
            plain(net)
        return net.eval()


def plain(net: SparsifinerViT) -> None:
    """Every token goes on, every query attends to all."""
    for block in net.blocks:
        block.keep_ratio, block.token_keep = 1.0, None  # type: ignore[assignment]


def plain_settings(config: SparsifinerConfig) -> dict[str, Any]:
    """What a configuration says beyond the shape, as JSON holds it."""
    named = {"keep_ratio": config.keep_ratio, "reduce_n": config.reduce_n, "reduce_c": config.reduce_c}
    tokens = {str(layer): share for layer, share in config.token_keep.items()}
    return {**named, "share_basis": config.share_basis, "rules": asdict(config.rules), "token_keep": tokens}


def state_of(net: AdaptiveViT | SparsifinerViT) -> dict[str, Tensor]:
    """The weights that a file holds."""
    return {name: value for name, value in net.state_dict().items() if not name.startswith("thresholds.")}


def write_trained(model: TrainedViT, path: Path) -> None:
    """Write a model file, atomically. Weights are rounded to float16."""
    described = {
        "format": FORMAT, "version": VERSION, "kind": model.kind, "architecture": asdict(model.shape),
        "classes": model.classes, "settings": dict(model.settings), "training": dict(model.training),
    }  # fmt: skip
    write_weights(path, model.state, described)


def read_trained(path: Path) -> TrainedViT:
    """A model file of ``write_trained``. Raises ``UsageError`` for anything else."""

    def build(described: dict[str, Any], state: dict[str, Tensor]) -> TrainedViT:
        if described["kind"] not in KINDS or not 1 <= described["architecture"]["depth"] <= len(state):
            raise ValueError("no such kind, or more blocks than weights")
        shape, classes = ViTShape(**described["architecture"]), tuple(map(str, described["classes"]))
        model = TrainedViT(described["kind"], shape, classes, described["settings"], state, described["training"])
        check_architecture(described["architecture"], model.network, state, whole=False)
        model.build()
        return model

    return read_weights(
        path,
        FORMAT,
        VERSION,
        build,
        what="pruned ViT of attn. `attn train as-vit` and `attn train sparsifiner` make one",
    )


def trained_file(name: str) -> Path | None:
    """The model file that a name means: a ``.safetensors``, or a recipe's folder; None: neither."""
    path = Path(name).expanduser()
    if path.suffix == ".safetensors":
        return path
    inside = path / "model.safetensors"
    return inside if inside.is_file() and not (path / "config.json").exists() else None


def load_image_model(
    name: str, *, device: torch.device | str = "cpu", dtype: torch.dtype | str = "float32",
    allow_download: bool = False,
) -> Loaded:  # fmt: skip
    """An image classifier or backbone: a file that `attn train` wrote or its folder, or what ``load_model`` takes.

    Raises
    ------
    UsageError
        If there is no such model, or it is none of images.
    """
    path = trained_file(name)
    if path is None:
        return load_model(name, "classifier", device=device, dtype=dtype, allow_download=allow_download)
    model = read_trained(path)
    place = pick_device(device) if isinstance(device, str) else device
    kind = pick_dtype(dtype) if isinstance(dtype, str) else dtype
    side = model.shape.image_size
    images = ImagePreparation((side, side), MEAN, STD)
    return Loaded(
        model.build().to(place, kind), Processor(images=images), model.kind, fingerprint([path]), model.classes
    )
