"""TransNormerLLM modules: training, recurrent and quadratic paths are equal; norms, rotation, decoding with a state."""

import pytest
import torch
from torch.nn import functional as F

from attn.core.attention.lightning.operator import OPERATOR
from attn.core.nets.tnl import GLA, LRPE, TNL, SRMSNorm, TNLBlock, srms_norm


def block(**options):
    torch.manual_seed(0)
    return TNLBlock(24, 3, **options).double()


@pytest.mark.parametrize(
    "options", [{}, {"lrpe": True}, {"variant": "tnl_v2"}, {"hidden_dim": 48, "glu_dim": 7}], ids=str
)
def test_block_recurrent_and_quadratic_paths_are_equal(options):
    module, x = block(**options), torch.randn(2, 150, 24, dtype=torch.float64)
    out, state = module(x)
    for path in ("recurrent", "reference"):
        other, other_state = module(x, path=path)
        torch.testing.assert_close(other, out, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(other_state.kv, state.kv, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("lrpe", [False, True])
def test_decoding_goes_on_where_the_prompt_ended(lrpe):
    module, x = block(lrpe=lrpe), torch.randn(1, 20, 24, dtype=torch.float64)
    whole, _ = module(x)
    out, state = module(x[:, :15])
    for t in range(15, 20):
        step, state = module(x[:, t : t + 1], state=state)
        out = torch.cat([out, step], 1)
    assert state.length == 20
    torch.testing.assert_close(out, whole, rtol=1e-10, atol=1e-10)


def test_block_trains():
    module, x = block(lrpe=True, variant="tnl_v2"), torch.randn(1, 30, 24, dtype=torch.float64)
    module(x)[0].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


def test_padding_on_the_left_changes_nothing():
    module, x = block(), torch.randn(1, 12, 24, dtype=torch.float64)
    padded = torch.cat([torch.randn(1, 5, 24, dtype=torch.float64), x], 1)
    mask = torch.arange(17)[None] >= 5
    torch.testing.assert_close(module(padded, mask=mask)[0][:, 5:], module(x)[0], rtol=1e-10, atol=1e-10)


def test_rotation_turns_products_into_relative_positions():
    lrpe = LRPE(2, 4)
    q = k = torch.ones(1, 2, 6, 4)
    scores = lrpe(q) @ lrpe(k).mT  # [1, 2, 6, 6]
    expected = torch.cos(lrpe.theta.squeeze(1)[:, None] * torch.arange(6)[:, None]).sum(-1)  # [2, 6]: by distance
    torch.testing.assert_close(scores[0, :, :, 0], expected)
    torch.testing.assert_close(scores[0, :, 1:, 1:], scores[0, :, :-1, :-1])
    torch.testing.assert_close(lrpe(q, start=3)[:, :, :3], lrpe(q)[:, :, 3:])


def test_norm_is_computed_in_float32():
    x = torch.full((1, 8), 300.0, dtype=torch.float16)  # the square overflows float16
    torch.testing.assert_close(srms_norm(x), torch.ones(1, 8, dtype=torch.float16))
    assert not list(SRMSNorm().parameters())


def test_model_decodes_as_it_reads():
    model = TNL(50, 24, num_layers=3, num_heads=2, padding=0).double()
    model.reset_parameters(torch.Generator().manual_seed(1))
    tokens = torch.randint(1, 50, (2, 12), generator=torch.Generator().manual_seed(2))
    logits, _ = model(tokens)
    assert logits.shape == (2, 12, 50)
    assert model.blocks[0].attention.position is not None
    assert model.blocks[1].attention.position is None
    assert model.blocks[2].attention.slope.max() < 1e-4  # the last layer hardly forgets
    assert not model.embedding.weight[0].any()
    _, states = model(tokens[:, :11])
    step, _ = model(tokens[:, 11:], states=states)
    torch.testing.assert_close(step, logits[:, 11:], rtol=1e-10, atol=1e-10)


def test_what_is_refused():
    with pytest.raises(ValueError, match="do not divide"):
        GLA(24, 5)
    with pytest.raises(ValueError, match="tnl or tnl_v2"):
        GLA(24, 4, variant="tnl_v3")
    x = torch.randn(1, 3, 24, dtype=torch.float64)
    with pytest.raises(ValueError, match="takes no mask"):
        block()(x, mask=torch.ones(1, 3, dtype=torch.bool), path="recurrent")
    with pytest.raises(ValueError, match="takes no state"):
        block()(x, state=block()(x)[1], path="reference")


def heads(x):
    return x.unflatten(-1, (3, 8)).transpose(1, 2)


@pytest.mark.parametrize("variant", ["tnl", "tnl_v2"])
def test_attention_layer_is_as_written(variant):
    layer, x = block(variant=variant).attention, torch.randn(2, 9, 24, dtype=torch.float64)
    q, k, v, *u = layer.qkvu(x).split(24, -1)
    if variant == "tnl_v2":
        v, gate = F.silu(v), torch.sigmoid(layer.gate(x))
    else:
        gate = u[0]
    out = OPERATOR.reference(heads(F.silu(q)), heads(F.silu(k)), heads(v)).transpose(1, 2).flatten(2)
    out = F.layer_norm(out, (24,)) if variant == "tnl_v2" else out / (out.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(layer(x)[0], layer.out(gate * out), rtol=1e-10, atol=1e-10)
