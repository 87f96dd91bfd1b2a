"""Every family against attention written out, on small random models of the real classes of transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from attn.core.errors import AttnError, UsageError
from attn.core.models.family import attention_modules, layout_of
from attn.core.models.hooks import observed
from attn.core.models.sites import Projection
from attn.core.models.softmax import divided
from attn.core.retrieve.tempscale import scaled, self_check, temperature

SMALL = dict(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
LLAMA = SMALL | dict(num_key_value_heads=1, pad_token_id=0, bos_token_id=1, eos_token_id=2)
T5 = dict(vocab_size=50, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
DEBERTA = SMALL | dict(relative_attention=True, pos_att_type=["c2p", "p2c"], max_relative_positions=16)
# class, configuration, arguments, kernels it has
FAMILIES: dict[str, tuple[str, str, dict[str, Any], tuple[str, ...]]] = {
    "bert": ("BertModel", "BertConfig", SMALL, ("sdpa", "eager")),
    "roberta": ("RobertaModel", "RobertaConfig", SMALL, ("sdpa", "eager")),
    "xlm-roberta": ("XLMRobertaModel", "XLMRobertaConfig", SMALL, ("sdpa",)),
    "camembert": ("CamembertModel", "CamembertConfig", SMALL, ("sdpa",)),
    "electra": ("ElectraModel", "ElectraConfig", SMALL | dict(embedding_size=16), ("sdpa", "eager")),
    "albert": ("AlbertModel", "AlbertConfig", SMALL | dict(embedding_size=8), ("sdpa",)),
    "distilbert": (
        "DistilBertModel", "DistilBertConfig", dict(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=24),
        ("sdpa", "eager"),
    ),
    "mpnet": ("MPNetModel", "MPNetConfig", SMALL, ("eager",)),
    "t5": ("T5EncoderModel", "T5Config", T5, ("sdpa", "eager")),
    "mt5": ("MT5EncoderModel", "MT5Config", T5, ("sdpa",)),
    "umt5": ("UMT5EncoderModel", "UMT5Config", T5, ("sdpa",)),
    "modernbert": (
        "ModernBertModel", "ModernBertConfig",
        SMALL | dict(pad_token_id=0, local_attention=6, global_attn_every_n_layers=2), ("sdpa", "eager"),
    ),
    "deberta": ("DebertaModel", "DebertaConfig", DEBERTA, ("eager",)),
    "deberta-v2": (
        "DebertaV2Model", "DebertaV2Config",
        DEBERTA | dict(position_buckets=8, share_att_key=True, norm_rel_ebd="layer_norm"), ("eager",),
    ),
    "nomic-bert": ("NomicBertModel", "NomicBertConfig", SMALL, ("sdpa",)),
    "eurobert": ("EuroBertModel", "EuroBertConfig", LLAMA, ("sdpa",)),
    "jina-v3": ("JinaEmbeddingsV3Model", "JinaEmbeddingsV3Config", SMALL, ("sdpa",)),
    "bloom (ALiBi)": (
        "BloomModel", "BloomConfig", dict(vocab_size=50, hidden_size=16, n_layer=2, n_head=2), ("eager",),
    ),
    "llama": ("LlamaModel", "LlamaConfig", LLAMA, ("sdpa", "eager")),
    "mistral": ("MistralModel", "MistralConfig", LLAMA, ("sdpa",)),
    "qwen2": ("Qwen2Model", "Qwen2Config", LLAMA, ("sdpa",)),
    "qwen3": ("Qwen3Model", "Qwen3Config", LLAMA | dict(head_dim=8), ("sdpa",)),
    "clip text": ("CLIPTextModel", "CLIPTextConfig", SMALL | dict(max_position_embeddings=16), ("sdpa", "eager")),
}  # fmt: skip
CASES = [(family, kernel) for family, entry in FAMILIES.items() for kernel in entry[3]]


def randomised(model: nn.Module) -> nn.Module:
    """Initial weights are so small that every attention is uniform."""
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = 0.5 * noise if parameter.ndim > 1 else parameter.data + 0.1 * noise
    return model


def build(family: str, kernel: str) -> nn.Module:
    name, config, arguments, _ = FAMILIES[family]
    if not hasattr(transformers, name):
        pytest.skip(f"this transformers has no {name}")
    torch.manual_seed(0)
    try:
        model = getattr(transformers, name)(
            getattr(transformers, config)(**arguments, attn_implementation=kernel)
        ).eval()
    except ValueError as error:  # transformers 4: not every family has sdpa
        pytest.skip(str(error).split(". ")[0])
    return randomised(model)


def run(model: nn.Module, length: int = 9) -> Tensor:
    """Last hidden states of real tokens of two rows, the second one padded."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 50, (2, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, length - 3 :] = 0
    ids[mask == 0] = 1 if "roberta" in type(model).__name__.lower() else 0
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]


class _Reference(torch.overrides.TorchFunctionMode):
    """softmax(logits / tau) in every softmax of an eager model: the definition, and nothing that knows families."""

    def __init__(self, tau: float) -> None:
        super().__init__()
        self.tau, self.count = tau, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.softmax:
            self.count += 1
            scores = args[0].double() / self.tau
            low = torch.finfo(args[0].dtype).min
            args = (scores.clamp(min=low).to(args[0].dtype), *args[1:])
        return func(*args, **(kwargs or {}))


def expected(family: str, tau: float) -> Tensor:
    model = build(family, "eager")
    with _Reference(tau) as mode:
        out = run(model)
    assert mode.count >= 2
    return out


@pytest.mark.parametrize(("family", "kernel"), CASES, ids=lambda value: value)
def test_equals_softmax_of_divided_logits(family: str, kernel: str) -> None:
    model = build(family, kernel)
    plain = run(model)
    for tau in (0.5, 0.9, 1.2):
        with temperature(model, tau):
            out = run(model)
        torch.testing.assert_close(out, expected(family, tau), atol=2e-5, rtol=2e-5)
        assert (out - plain).abs().max() > 1e-3
    assert torch.equal(run(model), plain)


def test_t5_is_not_scaled_by_its_attribute() -> None:
    """``scaling`` leaves the position bias out: another method (section 3.6)."""
    model = build("t5", "eager")
    for block in model.encoder.block:
        block.layer[0].SelfAttention.scaling = 2.0
    assert (run(model) - expected("t5", 0.5)).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["bert", "t5", "modernbert"])  # attribute, sum, projection
class TestBlocks:
    def test_inner_replaces_outer_and_gives_it_back(self, family: str) -> None:
        model = build(family, "eager")
        plain = run(model)
        with temperature(model, 0.5):
            half = run(model)
            with temperature(model, 0.9):
                inner = run(model)
                with temperature(model, 1.0):
                    assert torch.equal(run(model), plain)
            assert torch.equal(run(model), half)
        with temperature(model, 0.9):
            assert torch.equal(run(model), inner)
        assert torch.equal(run(model), plain)

    def test_exception_restores(self, family: str) -> None:
        model = build(family, "eager")
        before = {name: value.clone() for name, value in model.state_dict().items()}
        attributes = {name: set(vars(module)) for name, module in model.named_modules()}
        plain = run(model)
        with pytest.raises(RuntimeError, match="boom"), temperature(model, 0.5):
            raise RuntimeError("boom")
        assert torch.equal(run(model), plain)
        assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_layers(self, family: str) -> None:
        model = build(family, "eager")
        plain = run(model)
        with temperature(model, 0.5, "last:1"):
            last = run(model)
        with temperature(model, 0.5, [1]):
            assert torch.equal(run(model), last)
        with temperature(model, 0.5, [0]):
            first = run(model)
        with temperature(model, 0.5, "last:2"):
            both = run(model)
        with temperature(model, 0.5):
            assert torch.equal(run(model), both)
        different = [plain, last, first, both]
        assert all(not torch.equal(a, b) for i, a in enumerate(different) for b in different[:i])


@pytest.mark.parametrize("tower", ["CLIPVision", "SiglipVision"])
def test_image_towers(tower: str) -> None:
    arguments = {k: v for k, v in SMALL.items() if k != "vocab_size"} | dict(image_size=16, patch_size=8)
    torch.manual_seed(0)
    config = getattr(transformers, f"{tower}Config")(**arguments)
    model = randomised(getattr(transformers, f"{tower}Model")(config).eval())
    pixels = torch.randn(2, 3, 16, 16)

    def hidden() -> Tensor:
        with torch.no_grad():
            return model(pixel_values=pixels).last_hidden_state

    with temperature(model, 0.5):
        out = hidden()
    model.set_attn_implementation("eager")
    with _Reference(0.5) as mode:
        torch.testing.assert_close(out, hidden(), atol=2e-5, rtol=2e-5)
    assert mode.count == 2


def test_projection_of_torch_attention() -> None:
    """nn.MultiheadAttention, the attention of open_clip."""
    torch.manual_seed(0)
    attend = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    x = torch.randn(2, 5, 16)
    with temperature(attend, 0.5), torch.no_grad():
        out = attend(x, x, x, need_weights=False)[0]
    q, k, v = (x @ attend.in_proj_weight.T + attend.in_proj_bias).chunk(3, -1)
    q, k, v = (one.unflatten(-1, (2, 8)).transpose(1, 2) for one in (q, k, v))
    prob = (q @ k.mT * 8**-0.5 / 0.5).softmax(-1)
    torch.testing.assert_close(out, attend.out_proj((prob @ v).transpose(1, 2).flatten(2)), atol=1e-5, rtol=1e-5)


def test_fallback_equals_attribute() -> None:
    """Versions of transformers without the attribute are scaled at the query projection."""
    model = build("bert", "sdpa")
    with temperature(model, 0.7):
        out = run(model)
    sites = [Projection(module, layout_of(module)) for module in attention_modules(model)]
    for one in sites:
        one.set(0.7)
    torch.testing.assert_close(run(model), out, atol=2e-5, rtol=2e-5)
    for one in sites:
        one.restore()
    assert torch.equal(run(model), run(build("bert", "sdpa")))


def test_half_precision_keeps_masked_rows_finite() -> None:
    """-65504 / tau would be -inf, and a row of them NaN (section 9)."""
    scores = torch.full((1, 4), torch.finfo(torch.float16).min, dtype=torch.float16)
    assert torch.isfinite(divided(scores, 0.5).softmax(-1)).all()


@pytest.mark.parametrize("family", ["bert", "t5", "llama", "deberta", "mpnet"])
def test_observed_probabilities(family: str) -> None:
    model, seen = build(family, FAMILIES[family][3][0]), dict[int, Tensor]()
    plain = run(model)
    with observed(model, seen.__setitem__):
        assert torch.equal(run(model), plain)
    assert sorted(seen) == [0, 1]
    for prob in seen.values():
        assert prob.shape == (2, 2, 9, 9)
        torch.testing.assert_close(prob[0].sum(-1), torch.ones(2, 9))
        assert prob[1, :, :6, 6:].abs().max() == 0
    sharp: dict[int, Tensor] = {}
    with temperature(model, 0.5), observed(model, sharp.__setitem__):
        run(model)
    logits = seen[0][0].clamp(min=1e-30).log() / 0.5
    torch.testing.assert_close(sharp[0][0], logits.softmax(-1), atol=1e-5, rtol=1e-4)


class OddAttention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(2, 2)), "has no attention"),
        (lambda: nn.Sequential(OddAttention()), "OddAttention is no attention that attn knows"),
        (
            lambda: transformers.LongformerModel(transformers.LongformerConfig(**SMALL, attention_window=4)),
            "Longformer",
        ),
    ],
)
def test_unknown_classes_are_errors(make: Callable[[], nn.Module], message: str) -> None:
    model = make()
    with pytest.raises(UsageError, match=message), temperature(model, 0.5):
        pass
    with scaled(model, 1.0):  # nothing to do, so nothing to know
        pass


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_temperatures(tau: float) -> None:
    with pytest.raises(UsageError, match="not a positive number"), temperature(build("bert", "sdpa"), tau):
        pass


@pytest.mark.parametrize("layers", ["last:0", "last:3", "first:1", [2], [-1], []])
def test_bad_layers(layers: Any) -> None:
    with pytest.raises(UsageError, match="layers"), temperature(build("bert", "sdpa"), 0.5, layers):
        pass


def test_hidden_kernel_is_an_error() -> None:
    """A kernel whose softmax is out of reach must not pass as scaled."""
    model = build("t5", "eager")
    attention = model.encoder.block[0].layer[0].SelfAttention
    attention.forward = lambda *args, **kwargs: (args[0], None, None)
    with pytest.raises(UsageError, match="attn_implementation"), temperature(model, 0.5):
        run(model)


class TestSelfCheck:
    def test_passes(self) -> None:
        model = build("bert", "sdpa")
        self_check(model, lambda texts: run(model).numpy())

    def test_no_effect(self) -> None:
        model = build("bert", "sdpa")
        with pytest.raises(AttnError, match="changes nothing"):
            self_check(model, lambda texts: np.ones((len(texts), 2), np.float32))

    def test_trace(self) -> None:
        count = iter(range(9))
        with pytest.raises(AttnError, match="come back"):
            self_check(build("bert", "sdpa"), lambda texts: np.full((1, 1), next(count), np.float32))
