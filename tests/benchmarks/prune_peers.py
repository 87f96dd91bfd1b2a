"""Published pruners beside their authors' own programs: the same tokens on the same tensors, and the time of both.

    python tests/benchmarks/prune_peers.py CLONES

CLONES holds clones of the repositories, each under its name: FastV, PyramidDrop, SparseVLMs, VisionZip, divprune,
LLaVA-PruMerge; those that are missing are left out. Their functions are taken out of their files and run here; nothing
of them is part of this project. Sizes are those of LLaVA-1.5: 576 tokens, 24 layers of 16 heads, width 1024. Times are
of the process, the median of 15 runs in turn; models are not run, only what chooses and merges.
"""

from __future__ import annotations

import ast
import math
import statistics
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
import transformers as hf
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from attn.core.prune.engine.rows import LayerInput, attention_of_rows
from attn.core.prune.methods.base import largest
from attn.core.prune.methods.divprune import diverse
from attn.core.prune.methods.prumerge import PruMerge, merged_tokens
from attn.core.prune.methods.sparsevlm import clustered, clusters, recycled
from attn.core.prune.methods.visionzip import contextual_tokens

TOKENS, HEADS, WIDTH, RUNS = 576, 16, 1024, 15
Pair = tuple[Callable[[], Any], Callable[[], Any], Callable[[Any, Any], bool]]


def taken(path: Path, *names: str, **given: Any) -> dict[str, Any]:
    """Functions and methods of a file, compiled without the rest of it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wanted: list[ast.stmt] = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in names
    ]
    for node in wanted:
        node.decorator_list, node.returns = [], None  # type: ignore[attr-defined]
        for argument in node.args.args:  # type: ignore[attr-defined]
            argument.annotation = None
    space: dict[str, Any] = {"torch": torch, "np": np, "F": F, "nn": nn, "math": math, **given}
    exec(compile(ast.Module(wanted, []), str(path), "exec"), space)
    return space


def close(one: Tensor, other: Tensor, tolerance: float = 1e-4) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= tolerance * other.abs().max())


def visionzip(folder: Path) -> Pair:
    attention = (torch.randn(1, HEADS, 1 + TOKENS, 1 + TOKENS) * 2).softmax(-1)
    hidden, metric = torch.randn(1, 1 + TOKENS, WIDTH), torch.randn(1, 1 + TOKENS, WIDTH // HEADS)
    out = SimpleNamespace(attentions=[attention, None], hidden_states=[hidden, None])

    class Tower:
        _info: ClassVar = {"dominant": 53, "contextual": 10}
        vision_model = SimpleNamespace(encoder=SimpleNamespace(layers=[SimpleNamespace(metric=metric), None]))

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return out

    fake = SimpleNamespace(vision_tower=Tower(), device="cpu", dtype=torch.float32)
    forward = taken(folder / "visionzip" / "clip_encoder.py", "forward")["forward"]
    images = torch.zeros(1)

    def ours() -> tuple[Tensor, Tensor]:
        score = attention[0, :, 0].sum(0)
        score[0] = torch.inf
        dominant = largest(score, 54)
        _, tokens = contextual_tokens(hidden[0], metric[0], dominant, 10)
        return torch.cat([hidden[0, dominant], tokens]), dominant

    return ours, lambda: forward(fake, images), lambda a, b: (
        torch.equal(a[1], b[1][0].sort().values) and close(a[0], b[0][0])
    )  # fmt: skip


def divprune(folder: Path) -> Pair:
    features = torch.randn(TOKENS, 4096)
    path = folder / "LLaVA" / "llava" / "model" / "llava_arch.py"
    space = taken(path, "DivPrune", "pairwise_cosine_similarity")
    fake = SimpleNamespace(pairwise_cosine_similarity=lambda m: space["pairwise_cosine_similarity"](None, m))
    return (
        lambda: diverse(features, 144),
        lambda: space["DivPrune"](fake, features, TOKENS, threshold_ratio=0.25)[0],
        torch.equal,
    )


def prumerge(folder: Path, plus: bool) -> Pair:
    hidden = torch.randn(1, 1 + TOKENS, WIDTH)
    q, k = torch.randn(1, 1 + TOKENS, WIDTH) * 1.5, torch.randn(1, 1 + TOKENS, WIDTH)
    path = folder / "llava" / "model" / "multimodal_encoder" / "clip_encoder.py"
    name = "token_prune_merge_advanced" + "_plus" * plus
    outputs: dict[str, Tensor] = {"desired_k": k, "desired_q": q}
    space = taken(path, name, "outlier_dectection", "complement_idx", outputs=outputs, hook_k=None, hook_q=None)
    hook = SimpleNamespace(register_forward_hook=lambda _: SimpleNamespace(remove=lambda: None))
    layers = [SimpleNamespace(self_attn=SimpleNamespace(k_proj=hook, q_proj=hook))] * 24

    class Tower:
        vision_model = SimpleNamespace(encoder=SimpleNamespace(layers=layers))

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return SimpleNamespace(hidden_states=[hidden, None])

    fake = SimpleNamespace(
        vision_tower=Tower(), device="cpu", dtype=torch.float32, select_layer=-2,
        feature_select=lambda out: out.hidden_states[-2][:, 1:],
    )  # fmt: skip
    images = torch.zeros(1)

    def ours() -> Tensor:
        weights = (k[0] @ (q[0, 0] * WIDTH**-0.5)).softmax(0)[1:]
        kept = PruMerge(plus=plus, adaptive=True).kept(weights, TOKENS + 1)
        tokens = merged_tokens(hidden[0, 1:], k[0, 1:], weights, kept)
        rest = weights.clone()
        rest[kept] = 0
        return torch.cat([tokens, (rest @ hidden[0, 1:])[None]])

    return ours, lambda: space[name](fake, images)[0], close


def sparsevlm(folder: Path) -> Pair:
    length = 35 + TOKENS + 60
    attention = (torch.randn(1, 32, length, length) * 2).softmax(-1)
    hidden = torch.randn(TOKENS, 4096)
    raters = torch.arange(0, 60, 3)
    model = folder / "llava" / "model" / "language_model"
    budget = dict(RETAIN_TOKN=192, sparse_token_dict={192: [300, 200, 110]}, layer_dict={2: 0})
    score = taken(model / "score.py", "attn_postprocess_topk", **budget)["attn_postprocess_topk"]
    einops = SimpleNamespace(rearrange=lambda x, pattern: x[:, :, None] if pattern.endswith("b l () r") else x[:, None])
    merge = taken(model / "utils.py", "cluster_and_merge", "index_points", ein=einops)["cluster_and_merge"]

    def theirs() -> tuple[Tensor, Tensor]:
        mask, _, relation = score(attention, 35, TOKENS, 35 + TOKENS, (None, raters), 2)
        dropped = torch.where(mask == 0)[1]
        again = relation[0][dropped].topk(int(len(dropped) * 0.3) + 1)[1]
        torch.manual_seed(0)
        return mask[0].nonzero().flatten(), merge(hidden[dropped][again][None], int(len(again) / 10) + 1)[0]

    def ours() -> tuple[Tensor, Tensor]:
        relation = attention[0, :, 35 + TOKENS + raters, 35 : 35 + TOKENS].mean((0, 1))
        kept = largest(relation, 300)
        left = torch.ones(TOKENS, dtype=torch.bool)
        left[kept] = False
        dropped = left.nonzero().flatten()
        again = dropped[relation[dropped].topk(recycled(len(dropped))).indices]
        return kept, clustered(hidden[again], clusters(len(dropped)))[1]

    return ours, theirs, lambda a, b: torch.equal(a[0], b[0]) and close(a[1], b[1])


def fastv(folder: Path) -> Pair:
    length, start = 35 + TOKENS + 60, 35
    attention = (torch.randn(1, 32, length, length) * 2).softmax(-1)
    path = folder / "src/FastV/llava-hf/transformers/src/transformers/models/llama/modeling_llama.py"
    lines = path.read_text(encoding="utf-8").splitlines()
    first = max(i for i, line in enumerate(lines) if "last_layer_attention = layer_outputs[1]" in line)
    last = next(i for i in range(first, len(lines)) if "keep_indexs.sort()" in lines[i])
    code = compile(textwrap.dedent("\n".join(lines[first : last + 1])), str(path), "exec")

    def theirs() -> Tensor:
        space: dict[str, Any] = dict(
            torch=torch, layer_outputs=(None, attention), device="cpu", seq_length_with_past=length, FASTV_r=0.5,
            FASTV_image_token_start_index=start, FASTV_image_token_length=TOKENS,
        )  # fmt: skip
        exec(code, space)
        kept: Tensor = space["keep_indexs"]
        return kept[(kept >= start) & (kept < start + TOKENS)] - start

    return lambda: largest(attention[0, :, -1, start : start + TOKENS].mean(0), 288), theirs, torch.equal


def pyramiddrop(folder: Path) -> Pair:
    config = hf.LlamaConfig(hidden_size=WIDTH, num_attention_heads=HEADS, num_hidden_layers=1, intermediate_size=64)
    model = hf.LlamaModel(config).eval()
    layer: Any = model.layers[0]
    length, start = 35 + TOKENS + 60, 35
    features = torch.randn(1, length, WIDTH)
    positions = torch.arange(length)[None]
    cos, sin = model.rotary_emb(features, positions)

    def causal(mask: Any, shape: tuple[int, int], hidden: Tensor, past_key_values_length: int) -> Tensor:
        return torch.full((1, 1, shape[1], shape[1]), torch.finfo(hidden.dtype).min).triu(1)

    own = layer.self_attn
    attention = SimpleNamespace(
        q_proj=own.q_proj, k_proj=own.k_proj, v_proj=own.v_proj, num_heads=HEADS, num_key_value_heads=HEADS,
        head_dim=WIDTH // HEADS, rotary_emb=lambda value, seq_len: (cos, sin),
    )  # fmt: skip
    fake = SimpleNamespace(
        config=SimpleNamespace(), image_tokens=[TOKENS], image_token_ratio_list=[1, 0.5], image_token_posi=[start],
        prompt_len=[length - TOKENS], training=False,
        layers=[SimpleNamespace(self_attn=attention, input_layernorm=layer.input_layernorm)],
    )  # fmt: skip
    drop = taken(
        folder / "llava" / "model" / "modeling_llama_pdrop.py", "pdrop_rank_drop",
        _prepare_4d_causal_attention_mask=causal, IGNORE_INDEX=-100,
        apply_rotary_pos_emb=lambda q, k, cos, sin, ids: apply_rotary_pos_emb(q, k, cos, sin),
    )["pdrop_rank_drop"]  # fmt: skip

    def ours() -> Tensor:
        source = LayerInput(own, layer.input_layernorm(features), (cos, sin))
        rows = attention_of_rows(source, [torch.tensor([length - 1])], torch.ones(1, length, dtype=torch.bool))
        kept = largest(rows[0, :, 0, start : start + TOKENS].mean(0), TOKENS // 2) + start
        return torch.cat([features[0, :start], features[0, kept], features[0, start + TOKENS :]])

    return ours, lambda: drop(fake, 0, 0, features, None, None, None)[2][0], torch.equal


PEERS: dict[str, tuple[str, Callable[[Path], Pair]]] = {
    "fastv": ("FastV", lambda folder: fastv(folder)),
    "pyramiddrop": ("PyramidDrop", pyramiddrop),
    "sparsevlm": ("SparseVLMs", sparsevlm),
    "visionzip": ("VisionZip", visionzip),
    "divprune": ("divprune", divprune),
    "prumerge": ("LLaVA-PruMerge", lambda folder: prumerge(folder, plus=False)),
    "prumerge+": ("LLaVA-PruMerge", lambda folder: prumerge(folder, plus=True)),
}


def seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


@torch.no_grad()
def main(clones: Path) -> None:
    print("| method | same tokens | ours, ms | theirs, ms | ratio |\n|---|---|---|---|---|")
    for name, (repository, make) in PEERS.items():
        if not (clones / repository).is_dir():
            print(f"| {name} | {repository} is not in {clones} | | | |")
            continue
        torch.manual_seed(0)
        ours, theirs, same = make(clones / repository)
        equal = same(ours(), theirs())
        times = [(seconds(ours), seconds(theirs)) for _ in range(RUNS)]
        own, other = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
        print(f"| {name} | {'yes' if equal else 'NO'} | {own:.2f} | {other:.2f} | {other / own:.1f} |")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} CLONES")
    main(Path(sys.argv[1]))
