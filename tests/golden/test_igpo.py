"""IGPO against the official functions on a tiny random model: methods/igpo.md, section 10."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from attn.core.nets.masked_diffusion import MaskedDiffusionShape, MaskedDiffusionTransformer
from attn.core.train.igpo.estimate import (
    filtered,
    log_probabilities,
    log_probabilities_and_entropy,
    mask_ratios,
    masked_positions,
)
from attn.core.train.igpo.objective import ClippedObjective, terms
from attn.core.train.igpo.planting import Planting, plant, spread
from attn.core.train.igpo.sampling import complete, transfer_counts

TOLERANCE = 1e-4
with np.load(Path(__file__).parent / "vectors" / "igpo" / "igpo_tiny.npz") as file:
    V = {name: file[name] for name in file.files}
MASK, EOS = int(V["mask_id"]), int(V["eos_id"])
PROMPT, TRACE = V["prompt"].tolist(), V["reference_tokens"].tolist()


def tensor(name: str) -> Tensor:
    found = torch.from_numpy(V[name])
    return found.long() if found.dtype == torch.int32 else found


class Policy:
    mask_id, eos_id = MASK, EOS

    def __init__(self, which: str) -> None:
        vocabulary, width, heads, layers, positions = V["cfg"].tolist()
        self.net = MaskedDiffusionTransformer(MaskedDiffusionShape(vocabulary, width, heads, layers, positions, 2))
        head = f"param_{which}/"
        self.net.load_state_dict({n.removeprefix(head): tensor(n) for n in V if n.startswith(head)})

    def logits(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        return self.net(tokens, positions)


def planted(ratio: float, completion: int, planting: Planting, seed: int) -> tuple[Tensor, Tensor]:
    tokens = torch.tensor([*PROMPT, *[MASK] * completion])
    fixed = torch.arange(len(tokens)) < len(PROMPT)
    for source, (start, end) in plant(len(TRACE), completion, ratio, planting, random.Random(seed)):
        start, end = start + len(PROMPT), end + len(PROMPT)
        tokens[start:end] = torch.tensor(TRACE[source : source + end - start])
        fixed[start:end] = True
    return tokens, fixed


@pytest.mark.parametrize("case", range(5))
def test_planting(case: int) -> None:
    ratio, least, most, completion, spacing, last, seed = V[f"chunk/{case}/params"].tolist()
    planting = Planting(int(least), int(most), max_spacing=int(spacing), reveal_last=bool(last))
    tokens, fixed = planted(ratio, int(completion), planting, int(seed))
    assert torch.equal(tokens, tensor(f"chunk/{case}/sequence"))
    assert torch.equal(~fixed, tensor(f"chunk/{case}/to_generate"))


@pytest.mark.parametrize("case", range(4))
def test_spreading(case: int) -> None:
    factor, room, spacing = V[f"place/{case}/params"].tolist()
    chunks = [tuple(row) for row in V["place/chunks"].tolist()]
    assert spread(chunks, factor, int(room), int(spacing)) == [tuple(row) for row in V[f"place/{case}/out"].tolist()]


@pytest.mark.parametrize("steps", [5, 16])
def test_transfer_counts(steps: int) -> None:
    assert torch.equal(transfer_counts(tensor("transfer/mask").sum(1), steps), tensor(f"transfer/counts_s{steps}"))


def test_decoding_at_temperature_0() -> None:
    least, most, steps, completion, block, seed = V["decode/params"].tolist()
    rows = [
        planted(ratio, completion, Planting(least, most), seed + number)
        for number, ratio in enumerate(V["decode/ratios"].tolist())
    ]
    tokens = torch.stack([row[0] for row in rows])
    assert torch.equal(tokens, tensor("decode/start"))
    assert torch.equal(torch.stack([row[1] for row in rows]), tensor("decode/fixed"))
    policy = Policy("old")
    final = complete(policy, tokens, len(PROMPT), steps=steps, block=block, temperature=0)
    assert torch.equal(final, tensor("decode/final"))
    plain = torch.tensor([[*PROMPT, *[MASK] * completion]])
    final = complete(policy, plain, len(PROMPT), steps=steps, block=block, temperature=0)
    assert torch.equal(final, tensor("decode/plain_final"))


def test_estimate_filter_and_objective() -> None:
    low, high, beta, sequence, keep, iterations, _, everything = V["loss/params"].tolist()
    targets, prompt = tensor("rollout/completion_ids"), len(PROMPT)
    hints = tensor("rollout/inpaint_masks")[:, prompt:]
    assert everything
    assert mask_ratios(int(iterations), 32, None) == (tensor("rollout/timesteps") / 32).tolist()
    reward = tensor("rollout/rewards").sum(1)
    torch.testing.assert_close((reward - reward.mean()).float(), tensor("rollout/advantages"), atol=1e-6, rtol=1e-6)
    old_policy, new_policy = Policy("old"), Policy("new")
    for n in range(int(iterations)):
        masked = masked_positions((len(targets), targets.shape[1]), 1.0, torch.Generator().manual_seed(n))
        assert torch.equal(masked, tensor("rollout/masked_positions")[n].bool())
        tokens = tensor("rollout/perturbed")[n]
        assert bool((tokens[:, prompt:][masked] == MASK).all())
        old, entropy = log_probabilities_and_entropy(old_policy.logits(tokens)[:, prompt:], targets)
        torch.testing.assert_close(old, tensor("rollout/old_per_token_logps")[n], atol=TOLERANCE, rtol=TOLERANCE)
        torch.testing.assert_close(entropy, tensor("rollout/entropy")[n], atol=TOLERANCE, rtol=TOLERANCE)
        seen = filtered(masked, hints, entropy, keep)
        assert torch.equal(seen, tensor("rollout/masked_token_mask")[n].bool())
        new_policy.net.zero_grad()
        new = log_probabilities(new_policy.logits(tokens)[:, prompt:], targets)
        torch.testing.assert_close(new, tensor("loss/new_per_token_logps")[n], atol=TOLERANCE, rtol=TOLERANCE)
        found = terms(
            new, old, tensor("rollout/ref_per_token_logps")[n], tensor("rollout/advantages"), seen,
            ClippedObjective("sequence" if sequence else "token", low, high, beta),
        )  # fmt: skip
        loss = found.value / found.weight
        assert abs(float(loss.detach()) - V["loss/values"][n]) < TOLERANCE
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in new_policy.net.parameters() if p.grad is not None]).norm()
        assert abs(float(norm) - V["loss/grad_norms"][n]) < TOLERANCE
        assert abs(float(found.kl / found.weight) - V["loss/metric_kl"][n]) < TOLERANCE
        assert abs(float(found.clipped / found.weight) - V["loss/metric_clip_ratio"][n]) < TOLERANCE
