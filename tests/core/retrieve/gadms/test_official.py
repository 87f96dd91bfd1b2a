import pytest
import torch

from attn.core.errors import UsageError
from attn.core.retrieve.gadms.clip import GADMS, CLIPArchitecture
from attn.core.retrieve.gadms.official import load_official, read_state, resize_positions

SHAPE = CLIPArchitecture(
    embed_dim=64, image_size=(32, 16), patch_size=8, vision_width=64, vision_layers=2, text_length=10, vocab_size=50,
    text_width=64, text_heads=1, text_layers=2, decoder_layers=3,
)  # fmt: skip


@pytest.fixture
def state():
    torch.manual_seed(2)
    return {name: value.detach().clone() for name, value in GADMS(SHAPE).state_dict().items()}


def test_sizes_are_told_from_the_weights(state):
    net, fresh = load_official(state, image_size=(32, 16))
    assert net.shape == SHAPE
    assert fresh == []
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_plain_clip_has_no_head(state):
    clip = {n.removeprefix("base_model."): v.half() for n, v in state.items() if n.startswith("base_model.")}
    clip |= {"logit_scale": torch.tensor(4.6), "input_resolution": torch.tensor(224)}
    net, fresh = load_official(clip, image_size=(32, 16))
    assert fresh == ["cross_attn", "cross_modal_transformer", "ln_post", "ln_pre_i", "ln_pre_t", "mlm_head"]
    assert net.shape.decoder_layers == 4
    assert torch.equal(net.base_model.text_projection, state["base_model.text_projection"].half().float())


def test_transformers_weights_give_transformers_features(tmp_path):
    import transformers

    torch.manual_seed(3)
    towers = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 1}
    config = transformers.CLIPConfig(
        text_config=towers | {"vocab_size": 50, "max_position_embeddings": 10, "eos_token_id": 49, "bos_token_id": 48},
        vision_config=towers | {"image_size": 32, "patch_size": 8}, projection_dim=32,
    )  # fmt: skip
    theirs = transformers.CLIPModel(config).eval()
    theirs.save_pretrained(tmp_path)
    ours, _ = load_official(read_state(tmp_path), image_size=(32, 32))
    ids = torch.tensor([[48, 3, 7, 49, 0, 0, 0, 0, 0, 0], [48, 5, 6, 7, 8, 9, 10, 11, 12, 49]])
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        text, image = (
            getattr(out, "pooler_output", out)
            for out in (theirs.get_text_features(input_ids=ids), theirs.get_image_features(pixel_values=images))
        )
        assert torch.allclose(ours.text_feature(ids), text, atol=1e-5)
        assert torch.allclose(ours.image_feature(images), image, atol=1e-5)


def test_positions_are_resized():
    table = torch.cat(
        [torch.full((1, 1), 9.0), torch.arange(4.0).repeat_interleave(4)[:, None]]
    )  # rows of a 4 x 4 grid
    out = resize_positions(table, (8, 2))
    assert out.shape == (17, 1)
    assert float(out[0]) == 9
    rows = out[1:].reshape(8, 2)
    assert torch.equal(rows[:, 0], rows[:, 1])
    assert rows[:, 0].tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]  # corners not aligned
    assert resize_positions(table, (4, 4)) is table
    with pytest.raises(ValueError, match="no grid of 3 x 5"):
        resize_positions(table, (2, 2), (3, 5))


def test_weights_that_do_not_fit(state, tmp_path):
    with pytest.raises(ValueError, match=r"visual\.conv1\.weight is missing"):
        load_official({"resnet.weight": torch.zeros(1)})
    del state["base_model.ln_final.bias"]
    with pytest.raises(ValueError, match=r"do not hold ln_final\.bias"):
        load_official(state, image_size=(32, 16))
    state["base_model.ln_final.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"ln_final\.bias is \(3,\), the model wants \(64,\)"):
        load_official(state, image_size=(32, 16))
    (tmp_path / "x.pt").write_bytes(b"no weights")
    with pytest.raises(UsageError, match="cannot be read"):
        read_state(tmp_path / "x.pt")


def test_torch_files(state, tmp_path):
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "best.pth")
    assert read_state(tmp_path / "best.pth").keys() == state.keys()
