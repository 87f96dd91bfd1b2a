"""Prefill, scoring and memory of a pruned model on this machine: a LLaVA-like decoder with random weights.

    python tests/benchmarks/prune_prefill.py [--method fastv] [--keep 0.25] [--repeats 5]

Width 1024, 12 layers, 16 heads, MLP 2816, 576 visual and 64 text tokens, float32, SDPA, both runs in turns. Times are
medians of CPU seconds of all threads, so that other programs change them little; memory is the peak of a process that
makes one call, above what it had before.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import torch
import transformers as hf

from attn.core.bench.memory import resident
from attn.core.prune.api import keep_of, prune
from attn.core.prune.engine.hooks import pruned
from attn.core.prune.engine.sites import site_of
from attn.core.prune.measure.cost import cost_of
from attn.core.prune.measure.timing import prune_times
from attn.core.prune.named import pruner_of


def model_of_bench() -> hf.LlavaForConditionalGeneration:
    torch.manual_seed(0)
    text = hf.LlamaConfig(
        vocab_size=1000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=12, num_attention_heads=16,
        num_key_value_heads=16, max_position_embeddings=2048,
    )  # fmt: skip
    tower = hf.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=336, patch_size=14
    )
    config = hf.LlavaConfig(vision_config=tower, text_config=text, image_token_id=999)
    return hf.LlavaForConditionalGeneration(config).eval()


def question_of_bench() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 900, (1, 64))
    ids = torch.cat([ids[:, :32], torch.full((1, 576), 999), ids[:, 32:]], 1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(1, 3, 336, 336)}


@torch.no_grad()
def peak(method: str, keep: float) -> None:
    """Print the bytes that one prefill takes at most, and the process; without pruning for method ``none``."""
    model, inputs = model_of_bench(), question_of_bench()
    words = {name: inputs[name][:, -8:] for name in ("input_ids", "attention_mask")}
    model(**words)  # threads and packed weights are not the call's memory
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")
    before = resident("VmRSS")
    if method == "none":
        model(**inputs, logits_to_keep=1)
    else:
        with prune(model, method, keep):
            model(**inputs, logits_to_keep=1)
    print(resident("VmHWM") - before, resident("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--method", default="fastv")
    parser.add_argument("--keep", type=float, default=0.25)
    parser.add_argument("--layer", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--wall", action="store_true", help="wall clock")
    parser.add_argument("--peak", help="of one call of this method, or none, in this process")
    given = parser.parse_args()
    if given.peak:
        peak(given.peak, given.keep)
        return
    model, inputs = model_of_bench(), question_of_bench()
    site = site_of(model)
    stages = pruner_of(given.method, {"layer": given.layer}).stages(site, keep_of(given.keep))
    times = prune_times(
        model,
        inputs,
        stages,
        repeats=given.repeats,
        steps=4,
        clock=time.perf_counter if given.wall else time.process_time,
    )
    with torch.no_grad(), pruned(model, stages) as trace:
        model(**inputs, logits_to_keep=1)
    cost = cost_of(site, trace.last)
    print(f"{given.method}, keep {given.keep:g} from layer {given.layer}; {torch.get_num_threads()} threads")
    print(f"tokens {trace.last.whole()} -> {trace.last.tokens[-1][0]}, mean retention {cost.retention:.3f}")
    print(f"multiply-adds {cost.multiply_adds_before / 1e9:.1f} G -> {cost.multiply_adds_after / 1e9:.1f} G")
    unit = "s" if given.wall else "CPU s"
    before, after = times.before, times.after
    print(f"prefill {before.prefill:.3f} -> {after.prefill:.3f} {unit}: {before.prefill / after.prefill:.2f} x faster")
    print(
        f"scoring {1e3 * after.scoring:.1f} ms: {100 * after.scoring / after.prefill:.2f} % of the pruned prefill, "
        f"{100 * after.scoring / before.prefill:.2f} % of the plain one"
    )
    print(f"decode {1e3 * before.decode:.1f} -> {1e3 * after.decode:.1f} ms a step")
    plain, process = peak_of("none", 1.0)
    for keep in (given.keep, 1.0):  # one that takes nothing out has all that hooks hold besides
        fewer, whole = peak_of(given.method, keep)
        print(
            f"memory of the call at keep {keep:g}: {plain / 2**20:.0f} -> {fewer / 2**20:.0f} MiB, "
            f"{fewer / plain:.2f} x; of the process {whole / process:.2f} x"
        )


def peak_of(method: str, keep: float) -> tuple[int, int]:
    """What ``peak`` says in a process of its own."""
    command = [sys.executable, __file__, "--peak", method, "--keep", str(keep)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return int(said[-2]), int(said[-1])


if __name__ == "__main__":
    main()
