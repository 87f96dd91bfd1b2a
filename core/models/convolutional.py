"""Convolutional classifiers without the package they come from: our folders, and weights of torchvision's AlexNet and
VGG as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ..errors import InputError
from ..io.atomic import write_bytes
from ..io.weights import read_state, read_tensors
from ..nets.convolutional import ConvolutionalClassifier, classifier_of
from ..options import OptionError
from ..text import one_line, reason_of
from .files import fingerprint, read_json, write_json
from .images import IMAGENET, ImagePreparation
from .loaded import Loaded, Processor

FAMILY = "attn_convolutional"
"""``model_type`` of a folder."""
SUFFIXES = (".pth", ".pt", ".safetensors")
_TORCHVISION = ImagePreparation((224, 224), *IMAGENET, fit="crop", cover=256, mode="bilinear")
"""What torchvision prepares pictures with for these networks; methods/salient-relevance.md, section 3.1."""


def load_convolutional(folder: Path, *, device: torch.device, dtype: torch.dtype) -> Loaded:
    """The classifier of a folder that ``write_convolutional`` wrote. Raises ``UsageError``."""
    config, path = read_json(folder / "config.json"), folder / "model.safetensors"
    images = ImagePreparation.of_transformers(read_json(folder / "preprocessor_config.json"))
    labels = tuple(str(config["id2label"][str(number)]) for number in range(len(config["id2label"])))
    return _loaded(path, images, labels, device, dtype)


def load_convolutional_file(path: Path, *, device: torch.device, dtype: torch.dtype) -> Loaded:
    """The classifier of a file of weights alone, whose classes have no names.

    Pictures are prepared as torchvision does: shorter side 256, the middle 224 x 224, ImageNet's mean and deviation.

    Raises
    ------
    UsageError
        If the file is none of weights, or they are of another kind of network.
    """
    return _loaded(path, _TORCHVISION, (), device, dtype)


def _loaded(
    path: Path, images: ImagePreparation, labels: Sequence[str], device: torch.device, dtype: torch.dtype
) -> Loaded:
    state = _weights(path)
    try:
        net = classifier_of(state)
    except (ValueError, RuntimeError) as error:
        raise OptionError(
            f"{{model}}: {path} holds no weights of a chain such as AlexNet or VGG: {reason_of(error)}."
        ) from None
    classes = [m for m in net.classifier if isinstance(m, torch.nn.Linear)][-1].out_features
    if labels and len(labels) != classes:
        raise OptionError(f"{{model}}: {path.parent} names {len(labels)} classes, and its weights have {classes}.")
    return Loaded(net.to(device, dtype), Processor(images=images), FAMILY, fingerprint([path]), tuple(labels))


def _weights(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return read_tensors(path)[1]
        state, notes = read_state(path)
    except InputError as error:
        raise OptionError(f"{{model}}: {error}.") from None
    if notes:
        raise OptionError(
            f"{{model}}: {path} is no plain dictionary of weights: {notes[0]}. Save the state_dict alone."
        )
    if whole := [name for name, value in state.items() if is_quantised(name, value)]:
        raise OptionError(
            f"{{model}}: {path} holds quantised weights ({one_line(whole[0])}), which mean nothing without their "
            "scale. Save them as floating point."
        )
    return state


def is_quantised(name: str, value: Tensor) -> bool:
    """A weight or bias that is no floating point; counters beside them are whole numbers by nature."""
    return name.endswith((".weight", ".bias")) and not value.is_floating_point()


def write_convolutional(
    net: ConvolutionalClassifier, weights: Path, *, labels: Sequence[str], images: ImagePreparation
) -> None:
    """Write a folder around ``weights``, its file ``model.safetensors``: float16, with names of classes.

    Parameters
    ----------
    net : ConvolutionalClassifier
        Without batch norm, or with.
    weights : Path
    labels : sequence of str
    images : ImagePreparation
    """
    state = {name: value.detach().cpu().half().contiguous() for name, value in net.state_dict().items()}
    write_bytes(weights, save(state, {"format": "pt"}))
    config = {
        "architectures": [type(net).__name__], "model_type": FAMILY, "image_size": images.size[0],
        "id2label": {str(number): label for number, label in enumerate(labels)},
    }  # fmt: skip
    write_json(weights.parent / "config.json", config)
    write_json(weights.parent / "preprocessor_config.json", preprocessor(images))


def preprocessor(images: ImagePreparation) -> dict[str, Any]:
    """A ``preprocessor_config.json`` that ``ImagePreparation.of_transformers`` reads as ``images``."""
    height, width = images.size
    size: dict[str, int] = {"height": height, "width": width}
    crop = {"size": {"shortest_edge": images.cover or min(images.size)}, "crop_size": size, "do_center_crop": True}
    return {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "do_rescale": True, "do_normalize": True,
        "image_mean": list(images.mean), "image_std": list(images.std),
        "resample": 2 if images.mode == "bilinear" else 3, **(crop if images.fit == "crop" else {"size": size}),
    }  # fmt: skip
