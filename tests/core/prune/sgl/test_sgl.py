"""A guide's attention ranks the tokens of a large model (methods/sgl.md, section 11)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from small_vlms import NAMES, coloured, loaded_vlm
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from attn.core.errors import UsageError
from attn.core.prune.api import prune
from attn.core.prune.engine import rows as module
from attn.core.prune.engine.prompts import prompts_of
from attn.core.prune.engine.sites import VisionLanguageSite, site_of
from attn.core.prune.sgl.fitted import FittedExit, write_exit
from attn.core.prune.sgl.guide import run_guide
from attn.core.prune.sgl.importance import received_attention
from attn.core.prune.vlm.ask import PreparedBatch, batch, prepare

QUESTION = "what colour is it"


def guide_of(name: str) -> Any:
    """The guide of a model: of the same shape, with weights of its own."""
    return loaded_vlm(name, 1)


def slow_importance(site: VisionLanguageSite, inputs: dict[str, Tensor], answer: Tensor) -> tuple[Tensor, Tensor]:
    """By all of the matrices of one pass over prompt and answer: by the prompt, and by the answer read again."""
    visual = prompts_of(site, inputs).visual[0]
    length = inputs["input_ids"].shape[1]
    read = dict(inputs)
    for key, fill in (("input_ids", answer[:-1]), ("attention_mask", answer[:-1] * 0 + 1), ("mm_token_type_ids", 0)):
        if key in read:
            tail = torch.zeros(len(answer) - 1) if isinstance(fill, int) else fill
            read[key] = torch.cat([read[key], tail[None].to(read[key])], 1)
    before = site.model.config.get_text_config()._attn_implementation
    site.model.set_attn_implementation("eager")
    with torch.no_grad():
        attention = torch.stack(site.model(**read, output_attentions=True, use_cache=False).attentions)[:, 0]
    site.model.set_attn_implementation(before)
    columns = attention[..., visual].sum((0, 1))
    return columns[int(visual[-1]) + 1 : length].sum(0), columns[length:].sum(0)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "llava padded"])
def test_rows_alone_give_what_all_matrices_give(name: str) -> None:
    loaded = guide_of(name)
    site = site_of(loaded)
    inputs = prepare(loaded, [coloured(40, 56)], QUESTION).inputs
    run = run_guide(site, inputs, max_new_tokens=4)
    by_prompt, by_answer = slow_importance(site, inputs, run.ids[0])
    torch.testing.assert_close(run.received.prefill[0].sum(0), by_prompt, atol=1e-5, rtol=0)
    torch.testing.assert_close(run.received.decode[0].sum(0), by_answer, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["qwen2-vl", "smolvlm"])
def test_several_pictures_and_a_batch(name: str) -> None:
    """Index lists, gaps between them; prompts side by side are what they are alone, an answer's end included."""
    loaded = guide_of(name)
    site = site_of(loaded)
    questions = [
        prepare(loaded, [coloured(40, 56), coloured(24, 24)], QUESTION),
        prepare(loaded, [coloured(24, 24, 1)], "is it there"),
    ]
    together = run_guide(site, batch(loaded, questions).inputs, max_new_tokens=5)
    for sample, question in enumerate(questions):
        alone = run_guide(site, question.inputs, max_new_tokens=5)
        assert torch.equal(together.ids[sample], alone.ids[0])
        for one, other in zip(
            (together.received.prefill[sample], together.received.decode[sample], together.log_probabilities[sample]),
            (alone.received.prefill[0], alone.received.decode[0], alone.log_probabilities[0]),
            strict=True,
        ):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_what_follows_an_end_belongs_to_no_answer() -> None:
    loaded = guide_of("llava")
    site = site_of(loaded)
    inputs = prepare(loaded, [coloured(48, 48)], QUESTION).inputs
    full = run_guide(site, inputs, max_new_tokens=4)
    end = int(full.ids[0][1])
    before = site.model.generation_config.eos_token_id
    site.model.generation_config.eos_token_id = end
    try:
        pair = {name: torch.cat([value, value]) for name, value in inputs.items()}
        short = run_guide(site, inputs, max_new_tokens=4)
        with received_attention(site, stop=frozenset([end])) as received:
            site.model.generation_config.eos_token_id = None
            site.model.generate(**pair, max_new_tokens=4, do_sample=False)  # goes on behind the end
    finally:
        site.model.generation_config.eos_token_id = before
    length = full.ids[0].tolist().index(end) + 1
    assert short.ids[0].tolist() == full.ids[0][:length].tolist()
    torch.testing.assert_close(received.decode[1], short.received.decode[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["llava", "qwen2-vl", "qwen2.5-vl", "llava-next", "smolvlm", "internvl"])
def test_a_large_model_is_pruned_by_its_guide(name: str) -> None:
    """In ``generate``, where pixels are encoded before the model is called, and in a plain call: the same tokens."""
    large, guide = loaded_vlm(name), guide_of(name)
    inputs = prepare(large, [coloured(40, 56)], QUESTION).inputs
    wanted = run_guide(site_of(guide), inputs, max_new_tokens=3).received.importance()[0]
    count = max(1, int(len(wanted) * 0.25 + 0.5))
    best = wanted.topk(count).indices.sort().values
    with torch.no_grad(), prune(large, "sgl", 0.25, guide=guide, guide_tokens=3) as trace:
        large.model.generate(**inputs, max_new_tokens=2, do_sample=False)
        large.model(**inputs)
    assert len(trace.prefills) == 2
    for prefill in trace.prefills:
        assert min(prefill.choices) == 1  # int(4 x 0.4)
        found = prefill.kept()
        assert found is not None
        assert found.tolist() == best.tolist()
    assert any("guide's own run" in note for note in trace.notes)
    assert "get_image_features" not in vars(large.model.base_model)


def test_batches_are_ranked_prompt_by_prompt() -> None:
    large, guide = loaded_vlm("llava padded"), guide_of("llava padded")
    questions = [prepare(large, [coloured(48, 48, seed)], text) for seed, text in ((0, QUESTION), (1, "what"))]
    together: PreparedBatch = batch(large, questions)
    with torch.no_grad(), prune(large, "sgl+debias:pas", 12, guide=guide, pictures=together.pictures) as trace:
        large.model(**together.inputs)
    for sample, question in enumerate(questions):
        score = run_guide(site_of(guide), question.inputs).received.importance()[0]
        found = trace.last.kept(sample)
        assert found is not None
        assert found.tolist() == score.topk(12).indices.sort().values.tolist()


def test_a_calibration_of_other_models_is_told(tmp_path: Path) -> None:
    large, guide = loaded_vlm("llava padded"), guide_of("llava padded")
    write_exit(tmp_path / "exit.json", FittedExit(0.7, 0.3, 0.31, "a", "b", ("c", "d"), 10, 5, "e", "f", ("ab",)))
    with torch.no_grad(), prune(large, "sgl", 12, guide=guide, early_exit=tmp_path / "exit.json") as trace:
        large.model(**prepare(large, [coloured(48, 48)], QUESTION).inputs)
    assert "sgl: the threshold was found for other weights of the guide, those of b." in trace.notes


def test_guides_that_cannot_be(tmp_path: Any) -> None:
    large = loaded_vlm("llava")
    inputs = prepare(large, [coloured(48, 48)], QUESTION).inputs

    def ask(guide: Any, **settings: Any) -> None:
        with torch.no_grad(), prune(large, "sgl", 0.5, guide=guide, **settings):
            large.model(**inputs)

    with pytest.raises(UsageError, match="needs a smaller model"):
        ask(None)
    with pytest.raises(UsageError, match="the large model itself"):
        ask(large)
    with pytest.raises(UsageError, match="guide: no model named 'nowhere'"):
        ask("nowhere")
    with pytest.raises(UsageError, match="f_layer"):
        ask(guide_of("llava"), f_layer=1.0)
    with pytest.raises(UsageError, match=r"it has 0 visual tokens .* large model has 36"):
        ask(guide_of("qwen2-vl"))


def test_no_matrix_of_all_rows_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are worked out a few at a time: with the smallest of parts the sums are the same."""
    loaded = guide_of("llava")
    site = site_of(loaded)
    inputs = prepare(loaded, [coloured(48, 48)], QUESTION).inputs
    whole = run_guide(site, inputs, max_new_tokens=2).received
    monkeypatch.setattr(module, "AT_ONCE", 1)
    parts = run_guide(site, inputs, max_new_tokens=2).received
    torch.testing.assert_close(parts.prefill[0], whole.prefill[0], atol=1e-6, rtol=1e-5)


class Largest(TorchDispatchMode):
    """The most numbers in one tensor that was made."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple) else (out,):
            if isinstance(value, Tensor):
                self.numbers = max(self.numbers, value.numel())
        return out


@pytest.mark.slow
def test_many_tokens() -> None:
    """4096 visual tokens, 64 of text, 24 layers."""
    text = hf.LlamaConfig(
        vocab_size=60, hidden_size=32, intermediate_size=32, num_hidden_layers=24, num_attention_heads=2,
        max_position_embeddings=8192,
    )  # fmt: skip
    tower = hf.CLIPVisionConfig(
        image_size=512, patch_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
    )
    model = hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(text_config=text, vision_config=tower, image_token_id=59, vision_feature_layer=-1)
    ).eval()
    ids = torch.cat([torch.full((1, 4096), 59), torch.arange(64)[None] % 50], 1)
    inputs = {"input_ids": ids, "pixel_values": torch.rand(1, 3, 512, 512)}
    with Largest() as largest:
        run = run_guide(site_of(model), inputs, max_new_tokens=1)
    assert run.received.prefill[0].shape == (24, 4096)
    assert largest.numbers <= module.AT_ONCE < 4096 * 4096
