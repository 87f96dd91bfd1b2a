"""The softmax transformer: Llama's equations, and decoding that goes on where reading ended."""

import pytest
import torch

from attn.core.nets.softmax_lm import SoftmaxLM


def network():
    torch.manual_seed(0)
    return SoftmaxLM(40, 24, 3, 2, hidden_dim=50).double()


def test_its_weights_make_a_llama_of_the_same_answers():
    from transformers import LlamaConfig, LlamaForCausalLM

    model = network()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    config = LlamaConfig(
        vocab_size=40, hidden_size=24, intermediate_size=50, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=64, rms_norm_eps=1e-6, tie_word_embeddings=False,
    )  # fmt: skip
    llama = LlamaForCausalLM(config).double().eval()
    ours = model.state_dict()
    state = {
        "model.embed_tokens.weight": ours["embedding.weight"], "model.norm.weight": ours["norm.weight"],
        "lm_head.weight": ours["head.weight"],
    }  # fmt: skip
    names = {
        "attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm", "out": "self_attn.o_proj",
        "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
    }  # fmt: skip
    for layer in range(3):
        for name, theirs in names.items():
            state[f"model.layers.{layer}.{theirs}.weight"] = ours[f"blocks.{layer}.{name}.weight"]
        for name, part in zip("qkv", ours[f"blocks.{layer}.qkv.weight"].chunk(3), strict=True):
            state[f"model.layers.{layer}.self_attn.{name}_proj.weight"] = part
    llama.load_state_dict(state)
    tokens = torch.randint(40, (2, 33))
    truth = llama(tokens).logits
    assert truth.std() > 0.1
    # their angles are float32
    torch.testing.assert_close(model(tokens)[0], truth, rtol=1e-5, atol=1e-5)


def test_decoding_goes_on_where_reading_ended():
    model, tokens = network(), torch.randint(40, (2, 20))
    whole = model(tokens)[0]
    logits, states = model(tokens[:, :7])
    parts = [logits]
    for start, stop in ((7, 8), (8, 9), (9, 14), (14, 15), (15, 20)):
        logits, states = model(tokens[:, start:stop], states=states)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-10)
    assert [state.length for state in states] == [20] * 3
    assert states[0].nbytes == 2 * 2 * 20 * 24 * 8
    assert states[0].k.shape[2] > 20  # room was made ahead


def test_it_learns_and_refuses_odd_heads():
    model = network()
    model(torch.randint(40, (1, 9)))[0].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    with pytest.raises(ValueError, match="multiple of twice"):
        SoftmaxLM(40, 18, 1, 6, hidden_dim=8)
