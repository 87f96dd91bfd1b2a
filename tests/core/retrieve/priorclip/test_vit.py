import pytest
import torch
import torch.nn.functional as F

from attn.core.retrieve.priorclip.pir import believe
from attn.core.retrieve.priorclip.vit import GATES, PriorCLIPVisionTransformer, gated, index_weights, rank_weights


def tokens(batch=3, n=10, width=8):
    generator = torch.Generator().manual_seed(3)
    h = torch.randn(batch, n, width, generator=generator, dtype=torch.float64)
    return h, believe(h, torch.randn(batch, 1, width, generator=generator, dtype=torch.float64))


def test_weights_on_a_known_order():
    belief = torch.tensor([[0.2, 0.5, 0.3]])  # order 1, 2, 0; ranks 2, 0, 1
    torch.testing.assert_close(index_weights(belief), torch.tensor([[2.0, 3.0, 1.0]]).rsqrt())
    torch.testing.assert_close(rank_weights(belief), torch.tensor([[3.0, 1.0, 2.0]]).rsqrt())


def test_ties_go_to_the_first_token():
    assert torch.equal(rank_weights(torch.full((1, 40), 1 / 40)), (torch.arange(40)[None] + 1.0).rsqrt())


def test_the_rank_gate_cancels_and_the_weighted_gate_does_not():
    h, belief = tokens()
    torch.testing.assert_close(gated(h, belief, "rank"), F.normalize(h, dim=2))
    weighted = gated(h, belief, "weighted")
    best, worst = belief.argmax(1), belief.argmin(1)
    share = weighted.norm(dim=2) / h.norm(dim=2)
    assert (share[torch.arange(3), best] > 1).all()
    assert (share[torch.arange(3), worst] < 0.4).all()


def test_released_channels_have_unit_norm_over_the_tokens():
    h, belief = tokens()
    torch.testing.assert_close(gated(h, belief, "released").norm(dim=1), torch.ones(3, 8, dtype=torch.float64))


def test_no_gate_is_the_token_itself():
    h, belief = tokens()
    assert gated(h, belief, "none") is h


def vit(gate="rank"):
    torch.manual_seed(0)
    return PriorCLIPVisionTransformer(32, 8, 16, 2, 4, 12, gate=gate).eval()


@pytest.mark.parametrize("gate", GATES)
def test_shapes_for_one_image(gate):
    with torch.inference_mode():
        out = vit(gate)(torch.randn(1, 3, 32, 32), torch.randn(1, 1, 16))
    assert out.pooled.shape == (1, 12)
    assert out.tokens.shape == (1, 17, 16)
    assert out.belief.shape == (1, 17)


def test_without_instruction_it_is_clip():
    with torch.inference_mode():
        net, image = vit(), torch.randn(2, 3, 32, 32)
        out = net(image)
        z = net.ln_post(net.transformer(net.embed(image)))
    assert out.belief is None
    torch.testing.assert_close(out.pooled, z[:, 0] @ net.proj)


def test_gradients_reach_the_instruction_through_the_belief_where_the_weights_count():
    """Through belief alone, not through the token: with ``rank`` there is nothing but rounding."""
    grads = {}
    for gate in ("rank", "weighted", "released"):
        h, _ = tokens()
        y = torch.randn(3, 1, 8, dtype=torch.float64, requires_grad=True)
        gated(h, believe(h, y), gate).square().mul(torch.arange(80).view(10, 8)).sum().backward()
        grads[gate] = y.grad.abs().max().item()
    assert grads["rank"] < 1e-12
    assert grads["weighted"] > 1e-3
    assert grads["released"] > 1e-3


def test_refused():
    with pytest.raises(ValueError, match="no multiple of patch_size 7"):
        PriorCLIPVisionTransformer(32, 7, 16, 2, 4, 12)
    with pytest.raises(ValueError, match="gate 'ranks' is not one of released"):
        vit("ranks")
    with pytest.raises(ValueError, match="sides of 32"):
        vit()(torch.randn(1, 3, 16, 16))
    with pytest.raises(ValueError, match="gate"):
        gated(*tokens(), "ranks")
