"""What cannot be used as a vision-language model or a classifier is one line that says why, before weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from encoder_folders import write
from small_models import PREPROCESSOR, VISION, vision_folder
from small_vlms import coloured, vlm_folder

from attn.core.errors import UsageError
from attn.core.memory import set_budget
from attn.core.models.footprint import parameters, prompt_bytes
from attn.core.models.load import load_model, vision_task
from attn.core.prune.vlm.ask import answer, prepare


def refusal(folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_model(str(folder), "vision-language")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["Blip2", "PaliGemma", "Mllama"])
def test_other_architectures(name: str, tmp_path: Path) -> None:
    config = getattr(hf, f"{name}Config")()
    config.architectures = [f"{name}ForConditionalGeneration"]
    config.save_pretrained(tmp_path)
    text = refusal(tmp_path)
    assert f"{config.model_type} ({name}ForConditionalGeneration), which is no model for vision-language" in text
    assert "Known are llava, llava_next, qwen2_vl, qwen2_5_vl, smolvlm, idefics3, internvl." in text


def test_models_of_images_alone(tmp_path: Path) -> None:
    assert "dinov2_with_registers" in refusal(vision_folder(tmp_path))


def test_folders_that_lack_something(tmp_path: Path) -> None:
    folder = vlm_folder(tmp_path, "smolvlm")
    parts = {name: (folder / name).read_bytes() for name in ("processor_config.json", "model.safetensors")}
    (folder / "processor_config.json").unlink()
    assert "holds no processor of pictures (processor_config.json or preprocessor_config.json)" in refusal(folder)
    for damaged in (b"{", b"[]", b'{"processor_class": "NoSuch"}', b'{"image_processor": 3}'):
        (folder / "processor_config.json").write_bytes(damaged)
        assert "the processor of" in refusal(folder)
    (folder / "processor_config.json").write_bytes(parts["processor_config.json"])
    for damaged in (b"", parts["model.safetensors"][:2000], parts["model.safetensors"][:-1000], b"\x00" * 5000):
        (folder / "model.safetensors").write_bytes(damaged)
        assert "cannot be loaded" in refusal(folder)
    (folder / "model.safetensors").unlink()
    assert "holds no weights" in refusal(folder)
    (folder / "config.json").write_text("{")
    assert "config.json cannot be read" in refusal(folder)


def test_memory_is_known_before_weights_are_read(tmp_path: Path) -> None:
    folder = vlm_folder(tmp_path, "llava")
    loaded = load_model(str(folder), "vision-language")
    count = sum(parameter.numel() for parameter in loaded.model.parameters())
    assert parameters([folder / "model.safetensors"], torch.float32) == count
    # 4 layers, 2 key heads of 8; width 32, 48 in the MLP; 28 words
    assert prompt_bytes(loaded.model.config, torch.bfloat16) == 3072 * ((2 * 4 * 16 + 4 * 32 + 3 * 48) * 2 + 4 * 28)
    try:
        set_budget(2**21)
        text = refusal(folder)
    finally:
        set_budget(None)
    assert "as float32, a prompt of 3072 tokens" in text
    assert "more than the budget of memory, 2.0 MiB. dtype bfloat16 takes half." in text


def test_weights_that_give_no_numbers(tmp_path: Path) -> None:
    loaded = load_model(str(vlm_folder(tmp_path, "qwen2-vl")), "vision-language")
    loaded.model.lm_head.weight.data[3] = torch.nan
    with pytest.raises(UsageError, match="logits are no finite numbers"):
        answer(loaded, prepare(loaded, [coloured(40, 40)], "what is it"), max_new_tokens=1)


@pytest.mark.parametrize("name", ["ViT", "DeiT", "Dinov2"])
def test_classifiers(name: str, tmp_path: Path) -> None:
    config = getattr(hf, f"{name}Config")(**VISION, id2label={0: "cat", 1: "dog", 2: "owl"})
    model: Any = getattr(hf, f"{name}ForImageClassification")(config).eval()
    model.save_pretrained(tmp_path)
    write(tmp_path / "preprocessor_config.json", PREPROCESSOR)
    loaded = load_model(str(tmp_path), "classifier")
    assert (loaded.labels, loaded.processor.images.size) == (("cat", "dog", "owl"), (16, 16))
    pixels = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded.model(pixels).logits, model(pixels).logits)
    assert vision_task(str(tmp_path)) == "classifier"
    assert load_model(str(tmp_path), "vision").labels == ()


def test_what_a_model_of_images_is_for(tmp_path: Path) -> None:
    backbone = vision_folder(tmp_path / "vit")
    assert vision_task(str(backbone)) == "classifier"
    assert load_model(str(backbone), "classifier").labels == ()
    assert vision_task(str(vlm_folder(tmp_path / "vlm", "internvl"))) == "vision-language"
    with pytest.raises(UsageError, match=r"no model named 'nothing'.*Give vit, shapes, shapes-guide, shapes-vit"):
        vision_task("nothing")
    with pytest.raises(UsageError, match=r"that name\. Did you mean shapes.*Give shapes, shapes-guide, a folder"):
        load_model("shape", "vision-language")
    with pytest.raises(UsageError, match="Give a folder of a model, or a Hugging Face id"):
        load_model("minilmm", "causal")


def test_older_folders(tmp_path: Path) -> None:
    """Before transformers 5 image processors had a file of their own."""
    folder = vlm_folder(tmp_path, "qwen2-vl")
    settings = json.loads((folder / "processor_config.json").read_text())
    images = settings["image_processor"] | {"processor_class": "Qwen2VLProcessor"}
    size = images.pop("size")
    images |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    write(folder / "preprocessor_config.json", images)
    (folder / "processor_config.json").unlink()
    loaded = load_model(str(folder), "vision-language")
    assert loaded.processor.joint.image_processor.size["longest_edge"] == 72 * 72
    assert loaded.processor.joint.chat_template


def test_templates_of_older_folders(tmp_path: Path) -> None:
    folder = vlm_folder(tmp_path, "llava padded")
    text = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    write(folder / "chat_template.json", {"chat_template": text})
    assert load_model(str(folder), "vision-language").processor.joint.chat_template == text
    settings = json.loads((folder / "processor_config.json").read_text())
    write(folder / "processor_config.json", settings | {"patch_size": None})
    assert "does not say its patch_size" in refusal(folder)


@pytest.mark.parametrize("name", ["ViT", "DeiT", "Dinov2"])
def test_pictures_of_another_size_than_the_model(name: str, tmp_path: Path) -> None:
    model: Any = getattr(hf, f"{name}ForImageClassification")(getattr(hf, f"{name}Config")(**VISION)).eval()
    model.save_pretrained(tmp_path)
    write(tmp_path / "preprocessor_config.json", PREPROCESSOR | {"size": {"shortest_edge": 24}, "crop_size": 24})
    loaded, pixels = load_model(str(tmp_path), "classifier"), torch.randn(1, 3, 24, 24)
    stretched = {} if name == "Dinov2" else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        assert torch.equal(loaded.model(pixels).logits, model(pixels, **stretched).logits)
