import json

import numpy as np
import pytest
import torch

from attn.core.errors import UsageError
from attn.core.retrieve.gadms.checkpoint import GADMSCheckpoint, read_checkpoint, write_checkpoint
from attn.core.retrieve.gadms.clip import GADMS, CLIPArchitecture
from attn.core.retrieve.gadms.encoder import load_gadms
from attn.core.retrieve.gadms.explain import explain
from attn.core.retrieve.gadms.tokenizer import WordTokenizer

TOKENIZER = WordTokenizer(("a", "red", "bag", "person"))
SHAPE = CLIPArchitecture(
    embed_dim=16, image_size=(24, 16), patch_size=8, vision_width=16, vision_layers=2, text_length=7,
    vocab_size=TOKENIZER.vocab_size, text_width=16, text_heads=2, text_layers=3, decoder_layers=1, head_dim=8,
)  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(4)
    return GADMS(SHAPE).half().float().eval()


@pytest.fixture
def path(model, tmp_path):
    write_checkpoint(
        GADMSCheckpoint("ga-dms", SHAPE, TOKENIZER, model.state_dict(), {"seed": 4}), tmp_path / "m.safetensors"
    )
    return tmp_path / "m.safetensors"


def test_model_files_hold_everything(model, path, tmp_path):
    read = read_checkpoint(path)
    assert (read.name, read.architecture, read.tokenizer, read.training) == ("ga-dms", SHAPE, TOKENIZER, {"seed": 4})
    built = read.build()
    assert all(torch.equal(value, built.state_dict()[name]) for name, value in model.state_dict().items())
    write_checkpoint(read, tmp_path / "small.safetensors", head=False)
    small = read_checkpoint(tmp_path / "small.safetensors")
    assert all(name.startswith("base_model.") for name in small.state)
    image = torch.randn(1, 3, 24, 16)
    assert torch.equal(small.build().image_feature(image), built.image_feature(image))


def test_files_that_are_no_models(path, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    with pytest.raises(UsageError, match="does not exist"):
        read_checkpoint(tmp_path / "none")
    (tmp_path / "text").write_text("no model")
    with pytest.raises(UsageError, match="no safetensors file"):
        read_checkpoint(tmp_path / "text")
    with safe_open(path, "pt") as file:
        described = json.loads(file.metadata()["attn"])
        state = {name: file.get_tensor(name) for name in file.keys()}
    wider = described["architecture"] | {"text_width": 32}
    for change, message in (
        ({"format": "other"}, "no GA-DMS model"),
        ({"version": 2}, "newer attn"),
        ({"architecture": wider}, "does not hold"),
    ):
        save_file(state, tmp_path / "x.safetensors", {"attn": json.dumps(described | change)})
        with pytest.raises(UsageError, match=message):
            read_checkpoint(tmp_path / "x.safetensors")


def test_encoder(model, path):
    encoder = load_gadms("mine", path, device=torch.device("cpu"))
    assert encoder.modalities == {"text", "image"}
    mark = encoder.fingerprint
    assert (mark.dim, mark.max_tokens, mark.image_size, mark.normalise, len(mark.sha256)) == (16, 7, 24, True, 64)
    texts = encoder.encode_texts(["a red bag", "", "a a a a a a a", "a red bag"], side="query")
    assert texts.truncated.tolist() == [False, False, True, False]
    assert texts.tokens.tolist() == [5, 2, 7, 5]
    assert np.allclose(np.linalg.norm(texts.vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(texts.vectors[0], texts.vectors[3])
    rng = np.random.default_rng(0)
    photos = [rng.random((3, 24, 16), np.float32), rng.random((3, 50, 70), np.float32)]
    images = encoder.encode_images(photos)
    assert images.vectors.shape == (2, 16)
    assert np.allclose(images.vectors[:1], encoder.encode_images(photos[:1]).vectors, atol=1e-6)
    assert encoder.encode_images([]).vectors.shape == (0, 16)
    shorter = load_gadms("mine", path, device=torch.device("cpu"), max_tokens=4)
    assert shorter.encode_texts(["a red bag"]).truncated.all()
    assert "max_tokens 7 / 4" in mark.difference(shorter.fingerprint)


def test_encoder_refuses_what_it_cannot_do(path):
    with pytest.raises(UsageError, match=r"^temperature: "):
        load_gadms("mine", path, device=torch.device("cpu"), temperature=0.9)
    with pytest.raises(UsageError, match="reads 3 to 7 tokens"):
        load_gadms("mine", path, device=torch.device("cpu"), max_tokens=8)


def test_explanation(model, path):
    image = np.random.default_rng(1).random((3, 40, 40), np.float32)
    found = explain(model, TOKENIZER, image, "A red bag!")
    assert found.words == ("a", "red", "bag")
    assert found.scores.shape == (3,)
    assert found.scores.max() == 1
    assert found.attention.shape == (3, 3)
    assert (found.attention > 0).all()
    assert (found.attention.sum(1) < 1).all()  # the rest goes to start and end
    assert found.patches.shape == (3, 2)
    encoder = load_gadms("mine", path, device=torch.device("cpu"))
    cosine = encoder.encode_texts(["a red bag"]).vectors[0] @ encoder.encode_images([image]).vectors[0]
    assert found.similarity == pytest.approx(float(cosine), abs=1e-5)
    with torch.inference_mode():
        assert np.allclose(explain(model, TOKENIZER, image, "a red bag").scores, found.scores)
    assert np.array_equal(encoder.explain(image, "a red bag").scores, found.scores)
    with pytest.raises(UsageError, match="has no words"):
        explain(model, TOKENIZER, image, " ... ")
