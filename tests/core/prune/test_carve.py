"""CARVE's parts without a model that answers: capture of rows, masks, crops (methods/carve.md, section 11)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import transformers as hf
from small_vlms import coloured, loaded_vlm

from attn.core.errors import UsageError
from attn.core.prune.carve.capture import newest_rows
from attn.core.prune.carve.maps import (
    check_layers,
    clipped,
    contrast,
    default_layers,
    fused,
    has_contrast,
    step_weights,
)
from attn.core.prune.carve.mask import box_of, magnified, mask_of, masked, refined_size
from attn.core.prune.carve.method import Carve
from attn.core.prune.engine.sites import site_of


def tiny_llava() -> hf.LlavaForConditionalGeneration:
    text = hf.LlamaConfig(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0,
    )  # fmt: skip
    vision = hf.CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    config = hf.LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=59, vision_feature_layer=-2, image_seq_length=16
    )
    torch.manual_seed(0)
    return hf.LlavaForConditionalGeneration(config).eval()


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@torch.no_grad()
def test_rows_are_those_of_eager_attention(kernel: str) -> None:
    model = tiny_llava()
    ids = torch.tensor([[1, 2, 3, *[59] * 16, 4, 5, 6]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(1, 3, 32, 32)}
    model.set_attn_implementation("eager")
    wanted = model.generate(
        **inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False, output_attentions=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    model.set_attn_implementation(kernel)
    with newest_rows(site_of(model), (1, 3), inputs) as seen:
        answer = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert torch.equal(answer, wanted.sequences)
    eager = np.stack([[step[layer][0, :, -1, 3:19].mean(0).numpy() for layer in (1, 3)] for step in wanted.attentions])
    assert seen.maps.shape == (4, 2, 16)
    np.testing.assert_allclose(seen.maps, eager, atol=1e-6)
    assert seen.passes == 4
    assert not model._forward_pre_hooks


def test_a_prompt_without_a_picture_is_refused() -> None:
    site = site_of(tiny_llava())
    with pytest.raises(UsageError, match="no visual token"), newest_rows(site, (1,), {"input_ids": torch.ones(1, 4)}):
        pass


def test_steps() -> None:
    assert step_weights(3, "all").tolist() == [1, 2, 3]
    assert step_weights(3, "first").tolist() == [1, 0, 0]
    assert step_weights(3, "last").tolist() == [0, 0, 1]
    task, general = np.ones((4, 1, 2)), np.full((2, 1, 2), 0.5)
    assert contrast(task, general).shape == (2, 1, 2)  # the common steps
    np.testing.assert_allclose(fused(contrast(task, general), "last"), 2, rtol=1e-6)


def test_equal_maps_have_no_contrast() -> None:
    maps = np.random.default_rng(0).random((3, 2, 12)).astype(np.float32)
    assert not has_contrast(fused(contrast(maps, maps), "all"))
    assert has_contrast(fused(contrast(maps, np.roll(maps, 1)), "all"))
    assert not has_contrast(np.array([1.0, np.nan]))


@pytest.mark.parametrize("rank", ["attention", "size", "remove-small"])
def test_the_scale_of_the_general_maps_changes_no_mask(rank: str) -> None:
    rng = np.random.default_rng(1)
    task, general = rng.random((2, 2, 100)) + 0.1, rng.random((2, 2, 100)) + 0.1
    values = [fused(contrast(task, general * factor), "all").reshape(10, 10) for factor in (1, 7)]
    np.testing.assert_allclose(values[0], 7 * values[1], rtol=1e-5)
    one, other = (mask_of(v, 0.2, 3, rank=rank) for v in values)  # type: ignore[arg-type]
    assert np.array_equal(one, other)


def test_regions_are_those_of_a_slow_count() -> None:
    values = np.zeros((9, 9))
    values[0, 0], values[2, 2:4], values[5, 5], values[8, 0:3], values[7, 8] = 5, 2, 3, 1, 4
    sums = {(0, 0): 5.0, (2, 2): 4.0, (5, 5): 3.0, (8, 0): 3.0, (7, 8): 4.0}
    cap = mask_of(values, 8 / 81, 2, regions="cap")  # the eight pixels that are not 0
    assert {place for place in sums if cap[place]} == {(0, 0), (2, 2)}  # of equal sums the first
    code = mask_of(values, 8 / 81, 1)
    assert code.sum() == 1  # K is a minimum: int(5 * 0.099) = 0 are fewer
    many = np.indices((20, 20)).sum(0) % 4 == 0  # diagonals touch at corners alone: one region each
    assert mask_of(many.astype(float), 0.2, 3).sum() == int(many.sum() * 0.2)
    assert mask_of(many.astype(float), 0.2, 3, regions="cap").sum() == 3
    assert mask_of(many.astype(float), 0.2, 3, rank="remove-small").sum() == many.sum()


def test_crops() -> None:
    pixels = np.random.default_rng(2).random((3, 30, 40), np.float32)
    mask = np.zeros((30, 40), bool)
    assert box_of(mask) == (0, 0, 40, 30)
    mask[10:13, 20:22] = True
    assert box_of(mask) == (20, 10, 22, 13)
    assert refined_size((20, 10, 22, 13), (30, 40)) == (40, 60)  # covers
    assert refined_size((20, 10, 22, 13), (30, 40), 8) == (16, 24)
    assert magnified(pixels, (20, 10, 22, 13), (30, 40), 8).shape == (3, 24, 16)
    black, grey = masked(pixels, mask), masked(pixels, mask, "mean")
    assert np.array_equal(black[:, mask], pixels[:, mask])
    assert not black[:, ~mask].any()
    np.testing.assert_allclose(grey[:, 0, 0], pixels.mean((1, 2)), rtol=1e-6)


def test_layers() -> None:
    assert default_layers(28) == default_layers(40) == (20, 21, 22, 23, 24, 25)
    assert default_layers(10) == (7, 8, 9)
    assert default_layers(4) == (3,)
    assert default_layers(1) == (0,)
    check_layers((0, 3), 4)
    for layers in ((), (4,), (-1, 2)):
        with pytest.raises(UsageError, match="decoder layers 0 to 3"):
            check_layers(layers, 4)


def test_clipping_cuts_the_tail() -> None:
    assert clipped(np.arange(101.0), 90).max() == 90


def carve(**settings: object) -> Carve:
    return Carve(**{"general": "what is there", "suffix": " ?", "max_new_tokens": 3, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["llava", "llava-next", "qwen2.5-vl", "smolvlm", "internvl"])
def test_a_picture_is_asked_about_again(name: str) -> None:
    found = carve().run(loaded_vlm(name), coloured(40, 60), "what colour is it")
    assert found.mask is not None
    assert found.mask.shape == (40, 60)
    assert found.box == box_of(found.mask)
    assert found.crop is not None
    assert max(found.crop.shape[1] / 40, found.crop.shape[2] / 60) >= 1
    assert found.after is not None
    assert found.tokens_after is not None
    assert found.tokens_after > found.tokens  # both pictures
    assert found.entropy.shape == (4,)
    assert (found.entropy <= np.log(found.tokens) + 1e-9).all()
    assert found.passes <= 9


def test_the_general_look_is_made_once_for_a_picture() -> None:
    loaded, picture, method = loaded_vlm("llava padded"), coloured(40, 60), carve(final="refined", enlarge=2.0)
    passes = []
    handle = loaded.model.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        alone = method.run(loaded, picture, "what colour is it")
        assert len(passes) == alone.passes
        general = method.look_generally(loaded, picture)
        passes.clear()
        again = [method.run(loaded, picture, text, general=general) for text in ("what colour is it", "where is it")]
    finally:
        handle.remove()
    assert len(passes) == sum(found.passes for found in again)
    assert again[0].passes == alone.passes - general.passes
    assert np.array_equal(again[0].ratio, alone.ratio)
    assert not np.array_equal(again[1].ratio, alone.ratio)
    with pytest.raises(UsageError, match="another picture"):
        method.run(loaded_vlm("smolvlm"), picture, "what is it", general=general)


def test_a_question_that_is_the_instruction_has_no_contrast() -> None:
    found = carve().run(loaded_vlm("llava padded"), coloured(40, 60), "what is there")
    assert found.mask is found.box is found.crop is found.after is None
    assert any("no contrast" in warning for warning in found.warnings)


def test_a_reduced_picture_has_its_box_in_pixels_of_the_file() -> None:
    picture = dataclasses.replace(coloured(40, 60), size=(400, 601))
    found = carve(steps="first").run(loaded_vlm("qwen2-vl"), picture, "what colour is it")
    assert found.mask is not None
    assert found.box is not None
    x0, y0, x1, y1 = box_of(found.mask)
    assert found.box == (x0 * 601 // 60, y0 * 10, -(-x1 * 601 // 60), y1 * 10)
    assert found.steps == 1


def test_words_that_a_model_does_not_know_are_told() -> None:
    found = Carve(max_new_tokens=1).run(loaded_vlm("llava padded"), coloured(40, 60), "what colour is it")
    assert any("'what is there' was asked instead" in warning for warning in found.warnings)
    assert any("nothing is said behind the question" in warning for warning in found.warnings)
    with pytest.raises(UsageError, match="does not know"):
        carve(general="describe it").run(loaded_vlm("llava padded"), coloured(40, 60), "what colour is it")


@pytest.mark.parametrize(
    "settings", [{"lam": 0.0}, {"share": 0.0}, {"regions": 0}, {"clip": 0.0}, {"enlarge": 0.5}, {"max_new_tokens": 0}]
)
def test_settings_that_cannot_be(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"carve: {next(iter(settings))}"):
        Carve(**settings)  # type: ignore[arg-type]


def test_layers_beyond_the_model_are_refused() -> None:
    with pytest.raises(UsageError, match="decoder layers 0 to 3"):
        carve(layers=(20, 21)).run(loaded_vlm("llava padded"), coloured(40, 60), "what is it")
