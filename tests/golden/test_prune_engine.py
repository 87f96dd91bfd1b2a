"""Pruning in transformers' models against recorded ones: methods/pruning-peers.md, section 10."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prunable import MAKE
from torch import Tensor

from attn.core.prune.api import prune
from attn.core.prune.engine.hooks import pruned
from attn.core.prune.engine.moment import Moment, PruneStage, TokenChoice

TOLERANCE = 2e-5
"""Absolute, of section 10."""
KERNELS = pytest.mark.parametrize("kernel", ["eager", "sdpa"])


def vectors(name: str) -> dict[str, Tensor]:
    with np.load(Path(__file__).parent / "vectors" / "pruning-peers" / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


def recorded(name: str, v: dict[str, Tensor], kernel: str) -> tuple[Any, dict[str, Tensor]]:
    """The model of a file, and what it is called with."""
    model = MAKE[name]().eval()
    missing = model.load_state_dict({key[2:]: value for key, value in v.items() if key.startswith("p.")})
    assert not missing.missing_keys
    model.set_attn_implementation(kernel)
    return model, {"input_ids": v["input_ids"]} | {key[3:]: v[key] for key in v if key.startswith("in.")}


@KERNELS
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "smolvlm", "internvl"])
@torch.no_grad()
def test_fastv(name: str, kernel: str) -> None:
    v = vectors(f"hf_{name}")
    model, inputs = recorded(name, v, kernel)
    layer, start = int(v["layer_K"]), int(v["image_start"])
    torch.testing.assert_close(model(**inputs).logits, v["logits_full"], atol=TOLERANCE, rtol=0)
    with prune(model, "fastv", keep=0.5, layer=layer) as trace:
        out = model(**inputs, use_cache=True)
        generated = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    torch.testing.assert_close(out.logits, v["logits_pruned"], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(out.logits[0], v["logits_masked_kept"], atol=TOLERANCE, rtol=0)
    assert torch.equal(generated, v["generated"])
    lengths = [out.past_key_values.get_seq_length(number) for number in range(4)]
    assert lengths == v["cache_lens"].tolist()
    prefill = trace.prefills[0]
    (choice,) = prefill.choices[layer]
    assert choice.score is not None
    torch.testing.assert_close(choice.score, v["score"], atol=1e-6, rtol=0)
    kept = v["keep"]
    assert torch.equal(choice.keep, kept[(kept >= start) & (kept < start + int(v["image_len"]))] - start)
    assert prefill.slots is not None
    assert torch.equal(prefill.slots[0], kept)
    assert [count for (count,) in prefill.tokens] == lengths


@KERNELS
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
@torch.no_grad()
def test_in_front_of_the_language_model(name: str, kernel: str) -> None:
    def third(moment: Moment) -> list[TokenChoice]:
        return [TokenChoice(numbers[::3]) for numbers in moment.numbers]

    v = vectors(f"hf_prellm_{name}")
    model, inputs = recorded(name, v, kernel)
    with pruned(model, [PruneStage(0, third)]) as trace:
        logits = model(**inputs).logits
        generated = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    torch.testing.assert_close(logits, v["logits_pruned"], atol=TOLERANCE, rtol=0)
    assert torch.equal(generated, v["generated"])
    assert trace.prefills[0].slots is not None
    assert torch.equal(trace.prefills[0].slots[0], v["keep"])
