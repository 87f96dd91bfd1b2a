"""Questions about pictures: templates, batches, answers, and pictures of every kind."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_vlms import NAMES, coloured, loaded_vlm

from attn.core.errors import UsageError
from attn.core.memory import set_budget
from attn.core.models.load import load_model
from attn.core.models.pictures import ColourPicture, read_picture
from attn.core.prune.vlm.ask import answer, answers, batch, prepare

QUESTION = "what colour is it ?"


@pytest.mark.parametrize("name", NAMES)
def test_batches_answer_as_single_questions_do(name: str) -> None:
    loaded = loaded_vlm(name)
    questions = [
        prepare(loaded, [coloured(40, 60), coloured(33, 90, seed=1)], QUESTION),
        prepare(loaded, [coloured(90, 30, seed=2)], "is there a left"),
    ]
    together = batch(loaded, questions)
    mask = together.inputs["attention_mask"]
    assert mask[:, -1].all()
    assert mask.sum(1).tolist() == [each.inputs["input_ids"].shape[1] for each in questions]
    for both, each in zip(answers(loaded, together, max_new_tokens=3), questions, strict=True):
        alone = answer(loaded, each, max_new_tokens=3)
        torch.testing.assert_close(both.logits, alone.logits, atol=1e-5, rtol=0)
        assert torch.equal(both.ids, alone.ids)
        assert both.text == alone.text


@torch.no_grad()
def test_an_answer_is_the_model_own() -> None:
    loaded = loaded_vlm("qwen2.5-vl")
    question = prepare(loaded, [coloured(40, 60)], QUESTION)
    said = answer(loaded, question, max_new_tokens=4)
    logits = loaded.model(**question.inputs).logits[0, -1]
    torch.testing.assert_close(said.logits, logits.float())
    assert int(said.ids[0]) == int(logits.argmax())
    assert float(said.log_probabilities[0]) == pytest.approx(float(logits.log_softmax(-1).max()), abs=1e-5)
    assert len(said.ids) == len(said.log_probabilities) <= 4
    assert said.logits.shape == (loaded.model.config.get_text_config().vocab_size,)


def test_an_answer_ends_where_the_model_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = loaded_vlm("internvl")
    question = prepare(loaded, [coloured(40, 60)], QUESTION)
    whole = answer(loaded, question, max_new_tokens=6)
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", [int(whole.ids[1])])
    first = whole.ids.tolist().index(int(whole.ids[1]))
    assert answer(loaded, question, max_new_tokens=6).ids.tolist() == whole.ids[: first + 1].tolist()


@pytest.mark.parametrize(
    ("name", "holder", "setting", "value", "words"),
    [
        ("llava", "", "patch_size", 4, "144 tokens in the prompt stand for 36 features"),
        ("llava", "", "vision_feature_select_strategy", "full", "37 tokens in the prompt stand for 36 features"),
        ("llava", "image_processor", "do_center_crop", False, "llava cannot answer"),
        ("llava", "image_processor", "do_resize", False, None),
        ("llava padded", "image_processor", "image_mean", [0.5], "takes no picture of 40 x 60 pixels"),
        ("llava-next", "image_processor", "size", {"shortest_edge": 16}, "is not known"),
        ("llava-next", "image_processor", "image_grid_pinpoints", [[32, 32]], "llava_next|tokens in the prompt"),
        ("qwen2-vl", "image_processor", "merge_size", 1, "tokens in the prompt stand for"),
        ("smolvlm", "", "image_seq_len", 9, "tokens in the prompt stand for"),
        ("idefics3", "image_processor", "do_image_splitting", False, None),
        ("idefics3", "image_processor", "do_resize", False, None),
        ("internvl", "image_processor", "max_patches", 1, None),
        ("internvl", "image_processor", "size", {"height": 64, "width": 64}, "tokens in the prompt stand for"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(
    name: str, holder: str, setting: str, value: Any, words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line where processor and model are not of one piece; other settings are followed."""
    loaded = loaded_vlm(name)
    joint = loaded.processor.joint
    monkeypatch.setattr(getattr(joint, holder) if holder else joint, setting, value)
    with pytest.raises(UsageError, match=words) if words else nullcontext():
        question = prepare(loaded, [coloured(40, 60)], QUESTION)
        answer(loaded, question, max_new_tokens=1)


def test_a_prompt_longer_than_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = loaded_vlm("qwen2-vl")
    monkeypatch.setattr(loaded.model.config.get_text_config(), "max_position_embeddings", 20)
    question = prepare(loaded, [coloured(40, 60)], QUESTION)
    assert "the prompt has 55 tokens with its pictures; the model was made for 20" in question.warnings


def test_a_prompt_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = loaded_vlm("idefics3")
    monkeypatch.setattr(loaded.processor.joint.image_processor, "max_image_size", {"longest_edge": 8})
    monkeypatch.setattr(loaded.processor.joint, "image_seq_len", 1)
    try:
        set_budget(2**17)
        with pytest.raises(UsageError, match=r"the prompt has \d+ tokens with its pictures and takes about"):
            prepare(loaded, [coloured(40, 60)], QUESTION)
    finally:
        set_budget(None)


def test_an_answer_is_no_longer_than_the_model_was_trained_for(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = loaded_vlm("internvl")
    question = prepare(loaded, [coloured(40, 60)], QUESTION)
    monkeypatch.setattr(loaded.model.generation_config, "max_new_tokens", 2)
    assert len(answer(loaded, question, max_new_tokens=6).ids) == 2
    assert len(answer(loaded, question, max_new_tokens=1).ids) == 1


class TestTemplates:
    def test_a_guess_is_said(self) -> None:
        question = prepare(loaded_vlm("llava"), [coloured(48, 48)] * 2, QUESTION)
        assert question.prompt == f"USER: <image>\n<image>\n{QUESTION} ASSISTANT:"
        assert question.warnings == (
            "the model's folder has no chat template: asked as 'USER: … ASSISTANT:', the form of llava",
        )
        assert prepare(loaded_vlm("llava padded"), [coloured(48, 48)], QUESTION).warnings == ()

    @pytest.mark.parametrize("name", NAMES)
    def test_the_plain_form_of_every_class(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        loaded = loaded_vlm(name)
        for holder in (loaded.processor.joint, loaded.processor.joint.tokenizer):
            monkeypatch.setattr(holder, "chat_template", None)
        question = prepare(loaded, [coloured(40, 40), coloured(40, 30)], QUESTION)
        assert QUESTION in question.prompt
        assert question.prompt.count(loaded.processor.joint.image_token) == 2
        assert "no chat template" in question.warnings[0]

    def test_templates_for_texts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loaded = loaded_vlm("llava padded")
        for template, words in (
            ("{{ messages[0]['content'][1]['text'] }}", "leaves out the question or a picture"),
            ("{{ messages[0]['content'][0]['type'] }}<image>", "leaves out the question or a picture"),
            ("{{ raise_exception('no') }}", r"its chat template cannot be used \(no\)"),
            ("{% if %}", "its chat template cannot be used"),
        ):
            monkeypatch.setattr(loaded.processor.joint, "chat_template", template)
            with pytest.raises(UsageError, match=words):
                prepare(loaded, [coloured(40, 40)], QUESTION)

    def test_one_beginning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loaded = loaded_vlm("llava padded")
        plain = prepare(loaded, [coloured(40, 40)], QUESTION).inputs["input_ids"]
        monkeypatch.setattr(loaded.processor.joint, "chat_template", "{{ bos_token }}<image>what is it")
        started = prepare(loaded, [coloured(40, 40)], "what is it").inputs["input_ids"]
        assert started[0].tolist().count(2) == 1
        assert plain[0].tolist().count(2) <= 1

    def test_a_prompt_with_marks_of_pictures(self) -> None:
        with pytest.raises(UsageError, match="prompt: <image> stands for a picture"):
            prepare(loaded_vlm("llava"), [coloured(40, 40)], "what is <image>")


class TestPictures:
    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("size", [(1, 2000), (2000, 1), (1, 1)])
    def test_extreme_sides(self, name: str, size: tuple[int, int]) -> None:
        loaded = loaded_vlm(name)
        if name.startswith("qwen") and max(size) > 1:
            words = f"takes no picture of {size[0]} x {size[1]} pixels .*aspect ratio must be smaller than 200"
            with pytest.raises(UsageError, match=words):
                prepare(loaded, [coloured(*size)], QUESTION)
            return
        question = prepare(loaded, [coloured(*size)], QUESTION)
        assert question.pictures[0].size == size
        assert len(answer(loaded, question, max_new_tokens=1).ids) == 1
        cut = [text for text in question.warnings if "of the picture" in text]
        assert cut == (
            ["the model sees 0% of the picture; the rest is cut off by its processor"]
            if name == "llava" and max(size) > 1
            else []
        )

    def test_a_picture_that_grows_without_end(self) -> None:
        try:
            set_budget(2**26)
            with pytest.raises(UsageError, match=r"1 x 2000 pixels takes .* when it is resized, more than the budget"):
                prepare(loaded_vlm("llava"), [coloured(1, 2000)], QUESTION)
        finally:
            set_budget(None)

    def test_nothing_to_see(self) -> None:
        loaded = loaded_vlm("internvl")
        for pixels in (np.zeros((3, 0, 5)), np.zeros((3, 5, 0)), np.zeros((5, 5)), np.zeros((1, 5, 5))):
            with pytest.raises(UsageError, match=r"a picture is \[3, H, W\]"):
                prepare(loaded, [ColourPicture(pixels.astype(np.float32), (5, 5))], QUESTION)
        with pytest.raises(UsageError, match="pixels that are no numbers"):
            prepare(loaded, [ColourPicture(np.full((3, 4, 4), np.nan, np.float32), (4, 4))], QUESTION)
        with pytest.raises(UsageError, match="a question needs a picture"):
            prepare(loaded, [], QUESTION)

    def test_files(self, tmp_path: Path) -> None:
        """Deep greys are shown as read; what the reader warns of is said."""
        grey = (np.arange(48 * 40).reshape(48, 40) * 30).astype(np.uint16)
        Image.fromarray(grey).save(tmp_path / "deep.png")
        picture = read_picture(tmp_path / "deep.png")
        question = prepare(loaded_vlm("qwen2-vl"), [picture], QUESTION)
        assert question.pictures[0].size == (48, 40)
        assert set(picture.warnings) <= set(question.warnings)
        pixels: Any = question.inputs["pixel_values"]
        assert float(pixels[-1].mean()) > float(pixels[0].mean()) + 1  # bright below

    def test_eight_bits_stay_what_they_are(self) -> None:
        values = np.arange(256, dtype=np.float32).reshape(1, 16, 16).repeat(3, 0) / 255
        inputs = prepare(loaded_vlm("qwen2-vl"), [ColourPicture(values, (16, 16))], QUESTION).inputs
        first = (inputs["pixel_values"][0].view(3, 2, 4, 4)[0, 0] * 0.25 + 0.5) * 255
        torch.testing.assert_close(first, torch.arange(4.0)[:, None] * 16 + torch.arange(4.0), atol=1e-3, rtol=0)


class TestVideo:
    def test_frames(self) -> None:
        loaded = loaded_vlm("qwen2-vl")
        frames = [coloured(40, 60, seed) for seed in range(8)]
        question = prepare(loaded, frames, QUESTION, video=True)
        assert (question.tokens, len(question.pictures)) == (160, 8)
        assert question.inputs["video_grid_thw"].tolist() == [[4, 10, 16]]
        assert answer(loaded, question, max_new_tokens=2).ids.shape == (2,)

    def test_a_still_video_is_a_picture(self) -> None:
        """Two frames alike are what the processor makes of one picture."""
        loaded, picture = loaded_vlm("qwen2.5-vl"), coloured(40, 60)
        still = prepare(loaded, [picture] * 2, QUESTION, video=True).inputs
        alone = prepare(loaded, [picture], QUESTION).inputs
        assert torch.equal(still["pixel_values_videos"], alone["pixel_values"])
        assert torch.equal(still["video_grid_thw"], alone["image_grid_thw"])

    def test_what_is_no_video(self) -> None:
        with pytest.raises(UsageError, match="llava takes no videos; qwen2_vl, qwen2_5_vl do"):
            prepare(loaded_vlm("llava"), [coloured(40, 60)], QUESTION, video=True)
        with pytest.raises(UsageError, match="must be of one size"):
            prepare(loaded_vlm("qwen2-vl"), [coloured(40, 60), coloured(40, 50)], QUESTION, video=True)


def test_words_that_a_model_does_not_know_are_named() -> None:
    told = prepare(loaded_vlm("llava"), [coloured(40, 60)], "is it beautiful").warnings
    assert any("'beautiful': it reads [UNK] there" in text for text in told)
    with pytest.raises(UsageError, match=r"the model does not know 'beautiful'\. It knows 0, 1,.* yellow, yes\."):
        prepare(load_model("shapes", "vision-language"), [coloured(96, 96)], "is the ring beautiful")
