"""The codebook and the encoder around it against the official methods: methods/embodied-codebook.md, section 10."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from attn.core.nets.task_codebook import GoalEncoder, TaskCodebook, action_index
from attn.core.probe.codebook.usage import nearest, usage

VECTORS = Path(__file__).parent / "vectors" / "embodied-codebook" / "codebook.npz"
NAMES = {
    "marginal_entropy": "marginal_entropy", "soft_perplexity": "soft_perplexity",
    "mean_conditional_entropy": "mean_conditional_entropy", "hard_perplexity": "hard_perplexity",
    "hard_dead_fraction": "dead_hard", "soft_dead_fraction(mean<1e-3/K)": "dead_soft",
    "mutual_information": "mutual_information", "mean_top1_prob": "mean_top1_prob",
}  # fmt: skip


@pytest.fixture(scope="module")
def vectors() -> dict[str, NDArray[Any]]:
    with np.load(VECTORS) as file:
        return {key: file[key] for key in file.files}


@pytest.fixture
def tensors(vectors: dict[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value.copy()) for name, value in vectors.items() if value.dtype.kind in "fi"}


def codebook(tensors: dict[str, Tensor], **options: Any) -> TaskCodebook:
    codes = tensors["cb.codebook"]
    built = TaskCodebook(tensors["joint"].shape[-1], *codes.shape, topk=int(tensors["topk"]), **options)
    built.load_state_dict(
        {
            "codes": codes,
            "indexer.weight": tensors["cb.linear_codebook_indexer.1.weight"],
            "indexer.bias": tensors["cb.linear_codebook_indexer.1.bias"],
            "widen.weight": tensors["cb.linear_upsample.0.weight"],
            "widen.bias": tensors["cb.linear_upsample.0.bias"],
        }
    )
    return built.eval()


def close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    found, expected = (x.detach().numpy() if isinstance(x, Tensor) else np.asarray(x) for x in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_encoder(tensors: dict[str, Tensor]) -> None:
    encoder = GoalEncoder(16, torch.nn.Embedding(6, 8), 8, (24, 8), (24, 8))
    names = {"embed_goal": "goal", "resnet_compressor": "compressor", "target_obs_combiner": "combiner"}
    encoder.load_state_dict({
        name.removeprefix("enc.").replace(old, new): value
        for name, value in tensors.items() if name.startswith("enc.")
        for old, new in names.items() if old in name
    })  # fmt: skip
    seen = encoder(tensors["feat"], tensors["goal"])
    close(seen, tensors["obs_embed"])
    index = action_index(tensors["prev_actions"], tensors["masks"])
    assert torch.equal(index, tensors["action_index"])
    close(torch.cat([seen, tensors["action_table"][index]], -1), tensors["joint"])


@pytest.mark.parametrize("index", ["softmax", "topk_softmax"])
@pytest.mark.parametrize("kind", ["learned", "random", "binary"])
def test_outputs(tensors: dict[str, Tensor], kind: str, index: str) -> None:
    found = codebook(tensors, kind=kind, index=index).filtered(tensors["joint"])
    close(found.embedding, tensors[f"out_{kind}_{index}"])
    close(found.probs, tensors["probs"])
    if (kind, index) == ("learned", "softmax"):
        close(found.code, tensors["code"])


def test_dropout_of_a_given_mask(tensors: dict[str, Tensor]) -> None:
    close(codebook(tensors).filtered(tensors["joint"], tensors["drop_mask"]).embedding, tensors["out_dropout"])


def test_gradients(tensors: dict[str, Tensor]) -> None:
    network, joint = codebook(tensors), tensors["joint"].requires_grad_()
    network(joint).backward(tensors["grad_out"])
    close(joint.grad, tensors["grad_joint"])
    close(network.codes.grad, tensors["grad_codebook"])


def test_diagnostics(vectors: dict[str, NDArray[Any]]) -> None:
    found = usage(vectors["probs"].reshape(-1, vectors["probs"].shape[-1]))
    metrics = found.metrics()
    names = vectors["diag_names"].tolist()
    assert set(names) == set(NAMES)
    close([metrics[NAMES[name]] for name in names], vectors["diag"], 1e-4)
    close(found.mean, vectors["usage_mean"])
    close(found.winners / found.frames, vectors["usage_hard"])
    code = vectors["code"].reshape(-1, vectors["code"].shape[-1])
    assert np.array_equal(nearest(code, code, own=True), vectors["nn_cos"])
