"""SGL against recorded vectors: methods/sgl.md, section 10."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor

from attn.core.prune.engine.hooks import pruned
from attn.core.prune.engine.moment import Moment, PruneStage, TokenChoice
from attn.core.prune.engine.sites import VisionLanguageSite, site_of
from attn.core.prune.methods.base import Keep, top
from attn.core.prune.sgl.guide import GuideRun, consistency, run_guide
from attn.core.prune.sgl.importance import TextRows

PICTURE = 39
"""An id that neither prompt nor answer has."""


@pytest.fixture(scope="module")
def v() -> dict[str, Any]:
    with np.load(Path(__file__).parent / "vectors" / "sgl" / "sgl.npz") as file:
        return {name: torch.from_numpy(file[name]) if file[name].ndim else file[name].item() for name in file.files}


def llava(v: Mapping[str, Any], name: str, width: int, depth: int, kernel: str = "sdpa") -> VisionLanguageSite:
    """LLaVA with the recorded decoder, whose tower and projector always see the recorded features."""
    text = hf.LlamaConfig(
        vocab_size=40, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=depth, num_attention_heads=4,
        num_key_value_heads=2, rms_norm_eps=1e-6, pad_token_id=0, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    vision = hf.CLIPVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    model: Any = hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(text_config=text, vision_config=vision, image_token_id=PICTURE)
    ).eval()
    decoder = {key.removeprefix(f"{name}."): x for key, x in v.items() if key.startswith(f"{name}.")}
    model.lm_head.weight.data = decoder.pop("lm_head.weight")
    model.model.language_model.load_state_dict({key.removeprefix("model."): x for key, x in decoder.items()})
    model.set_attn_implementation(kernel)
    features = v[f"image_embeds_{name}"][0]

    def recorded(pixel_values: Tensor, **other: Any) -> hf.modeling_outputs.BaseModelOutputWithPooling:
        return hf.modeling_outputs.BaseModelOutputWithPooling(pooler_output=[features])

    model.model.get_image_features = recorded
    return site_of(model)


def prompt(v: Mapping[str, Any]) -> dict[str, Tensor]:
    ids = v["input_ids"].clone()
    ids[:, v["visual_start"] : v["visual_end_inclusive"] + 1] = PICTURE
    return {"input_ids": ids, "pixel_values": torch.zeros(1, 3, 8, 8)}


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def small(v: dict[str, Any], request: pytest.FixtureRequest) -> VisionLanguageSite:
    return llava(v, "small", 32, 3, request.param)


def ran(v: Mapping[str, Any], small: VisionLanguageSite, rows: TextRows) -> GuideRun:
    return run_guide(small, prompt(v), max_new_tokens=5, rows=rows)


@pytest.mark.parametrize(("rows", "suffix"), [("paper", ""), ("code", "_official")])
def test_importance(v: dict[str, Any], small: VisionLanguageSite, rows: TextRows, suffix: str) -> None:
    received = ran(v, small, rows).received
    for found, name in (
        (received.prefill[0].sum(0), "importance_prefill" + suffix),
        (received.decode[0].sum(0), "importance_decode"),
        (received.importance()[0], "importance" + suffix),
    ):
        torch.testing.assert_close(found, v[name], atol=1e-4, rtol=0)


def test_answer_and_early_exit(v: dict[str, Any], small: VisionLanguageSite) -> None:
    run = ran(v, small, "code")
    assert run.ids[0].tolist() == v["generated"].tolist()
    torch.testing.assert_close(run.log_probabilities[0].exp(), v["token_prob"], atol=1e-4, rtol=0)
    assert run.confidence() == pytest.approx(v["confidence"], rel=1e-4)
    found = consistency(
        small, prompt(v), run.ids[0], run.received.importance()[0], keep=Keep(share=v["consistency_ratio"])
    )
    assert found == pytest.approx(v["consistency"], rel=1e-3)
    assert (run.confidence() + found) / 2 == pytest.approx(v["decision"], rel=1e-4)


@torch.no_grad()
def test_what_an_answer_is_asked_again_with(v: dict[str, Any], small: VisionLanguageSite) -> None:
    """Behind each step the recorded logits; of the pruned prompt the recorded tokens and probabilities."""
    call, answer = prompt(v), v["generated"]
    call["input_ids"] = torch.cat([call["input_ids"], answer[None]], 1)
    behind = slice(-len(answer) - 1, -1)
    torch.testing.assert_close(small.model(**call).logits[0, behind], v["step_logits"], atol=1e-4, rtol=0)

    def choose(moment: Moment) -> list[TokenChoice]:
        return [top(v["importance_official"], moment.numbers[0], Keep(share=v["consistency_ratio"]).of(20))]

    with pruned(small.model, [PruneStage(0, choose)], site=small) as trace:
        logits = small.model(**call, use_cache=False).logits[0, behind]
    found = logits.softmax(-1).gather(-1, answer[:, None])[:, 0]
    torch.testing.assert_close(found, v["token_prob_pruned"], atol=1e-4, rtol=1e-3)
    assert trace.last.slots is not None
    assert trace.last.slots[0, : v["consistency_keep"].shape[0]].tolist() == v["consistency_keep"].tolist()


@torch.no_grad()
def test_large_model(v: dict[str, Any]) -> None:
    large = llava(v, "large", 48, 5)
    keep = Keep(share=v["prune_keep_ratio"])

    def choose(moment: Moment) -> list[TokenChoice]:
        return [top(v["importance_official"], moment.numbers[0], keep.of(20))]

    layer = int(large.depth * v["prune_layer_fraction"])
    assert layer == v["large_layer_K"]
    full = large.model(**prompt(v)).logits[0, -1]
    torch.testing.assert_close(full, v["large_logits_last_full"], atol=1e-4, rtol=0)
    with pruned(large.model, [PruneStage(layer, choose)], site=large) as trace:
        logits = large.model(**prompt(v)).logits[0, -1]
    torch.testing.assert_close(logits, v["large_logits_last"], atol=1e-4, rtol=0)
    visual = v["large_keep"][(v["large_keep"] >= v["visual_start"]) & (v["large_keep"] <= v["visual_end_inclusive"])]
    kept = trace.last.kept()
    assert kept is not None
    assert (kept + v["visual_start"]).tolist() == visual.tolist()
    assert trace.last.retention() == pytest.approx(v["avg_retention"])
