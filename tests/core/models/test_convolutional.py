"""Convolutional classifiers from folders and files, without torchvision; and the two models that ship."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attn.core.errors import UsageError
from attn.core.models.convolutional import preprocessor, write_convolutional
from attn.core.models.images import IMAGENET, ImagePreparation
from attn.core.models.load import load_model, vision_task
from attn.core.nets.convolutional import ConvolutionalClassifier, folded, vgg
from attn.core.prune.shapes.labelled import CLASSES, labelled_set
from attn.core.train.shapes_classifier.recipe import accuracy

SMALL = ImagePreparation((16, 16), (0.5,) * 3, (0.25,) * 3)


def net() -> ConvolutionalClassifier:
    torch.manual_seed(0)
    return folded(vgg((4, 6), 8, 3, grid=4).eval())


def test_a_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_convolutional(net(), tmp_path / "model.safetensors", labels=("a", "b", "c"), images=SMALL)
    loaded = load_model(str(tmp_path), "classifier")
    assert loaded.labels == ("a", "b", "c")
    images = loaded.processor.images
    assert images is not None
    assert (images.size, images.mean, images.std) == (SMALL.size, SMALL.mean, SMALL.std)
    image = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(loaded.model(image), net()(image), rtol=1e-2, atol=1e-2)
    with pytest.raises(UsageError, match="no model for text"):
        load_model(str(tmp_path), "text")
    write_convolutional(net(), tmp_path / "model.safetensors", labels=("a", "b"), images=SMALL)
    with pytest.raises(UsageError, match="names 2 classes, and its weights have 3"):
        load_model(str(tmp_path), "classifier")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_weights(tmp_path: Path, suffix: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / f"vgg{suffix}"
    state = net().state_dict()
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    loaded = load_model(str(path), "classifier")
    assert loaded.labels == ()
    assert loaded.processor.images is not None
    assert loaded.processor.images.size == (224, 224)
    image = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(loaded.model(image), net()(image))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"features.0.weight": torch.zeros(4, 3, 3, 3)}, "no weights of a chain such as AlexNet or VGG"),
        ([1, 2], "holds no weights by name"),
        (nn.Linear(2, 2), "reading those could run code"),
        ({"features.0.weight": torch.ones(8, 3, 3, 3, dtype=torch.int8)}, "quantised weights"),
        ({"state_dict": {"features.0.weight": torch.ones(8, 3, 3, 3)}, "epoch": 3}, "no plain dictionary"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: Any, said: str) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(UsageError, match=said) as raised:
        load_model(str(tmp_path / "net.pth"), "classifier")
    assert "\n" not in str(raised.value)


def test_how_pictures_are_prepared_survives_its_file() -> None:
    for images in (SMALL, ImagePreparation((32, 48), *IMAGENET, fit="squash", mode="bilinear"),
                   ImagePreparation((224, 224), *IMAGENET, cover=256, mode="bilinear")):  # fmt: skip
        again = ImagePreparation.of_transformers(preprocessor(images))
        assert (again.size, again.mean, again.fit, again.mode) == (images.size, images.mean, images.fit, images.mode)
        assert again.cover == (images.cover or (min(images.size) if images.fit == "crop" else None))


@pytest.mark.parametrize(("name", "least"), [("shapes-cnn", 0.97), ("shapes-vit", 0.92)])
def test_the_models_that_ship(name: str, least: float) -> None:
    loaded = load_model(name, "classifier")
    assert loaded.labels == CLASSES
    assert vision_task(name) == "classifier"
    assert accuracy(loaded.model, labelled_set(100), torch.device("cpu")) >= least


def test_relevance_refuses_nan_weights(tmp_path: Path) -> None:
    from attn.core.probe.relevance.look import check_classifier

    state = net().state_dict()
    name = next(iter(state))
    state[name].view(-1)[0] = float("nan")
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(UsageError, match=f"NaN or infinite weights .{name}."):
        check_classifier(load_model(str(tmp_path / "net.pth"), "classifier"))
