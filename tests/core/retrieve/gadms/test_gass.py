import pytest
import torch

from attn.core.retrieve.gadms.clip import GADMS, CLIPArchitecture
from attn.core.retrieve.gadms.gass import GASSOptions, gass, multi_scale_pool, reference, stretch

SHAPE = CLIPArchitecture(
    embed_dim=16, image_size=(16, 8), patch_size=8, vision_width=16, vision_layers=1, text_length=11, vocab_size=40,
    text_width=24, text_heads=3, text_layers=4, decoder_layers=1, head_dim=8,
)  # fmt: skip
START, END = 38, 39


def captions(*lengths, length=11, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(len(lengths), length, dtype=torch.int64)
    for row, words in zip(ids, lengths, strict=True):
        row[0], row[words + 1] = START, END
        row[1 : words + 1] = torch.randint(1, 37, (words,), generator=generator)
    return ids


@pytest.fixture
def model():
    torch.manual_seed(1)
    net = GADMS(SHAPE).double().eval()
    # far from the initial weights, where all attention is nearly even
    for parameter in net.base_model.transformer.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return net


@pytest.mark.parametrize("norm", ["attention", "released"])
@pytest.mark.parametrize("heads", ["1", "model"])
@pytest.mark.parametrize("scale", ["batch", "sample"])
@pytest.mark.parametrize("layers", [1, 3, 4])
def test_the_end_row_alone_gives_the_reference_scores(model, norm, heads, scale, layers):
    ids, images = captions(9, 1, 4, 0), torch.randn(4, 16, dtype=torch.float64)
    options = GASSOptions(norm, heads, scale, layers)
    scores = gass(model.base_model, ids, images, options)
    assert torch.allclose(scores, reference(model.base_model, ids, images, options).scores, rtol=0, atol=1e-9)
    assert float(scores.max()) == 1


def test_options_matter(model):
    ids, images = captions(9, 6, 4), torch.randn(3, 16, dtype=torch.float64)
    base = gass(model.base_model, ids, images, GASSOptions(layers=3))
    for other in (GASSOptions("released", layers=3), GASSOptions(heads="model", layers=3), GASSOptions(layers=2),
                  GASSOptions(scale="sample", layers=3), GASSOptions(scales=(1,), layers=3)):  # fmt: skip
        assert not torch.allclose(base, gass(model.base_model, ids, images, other)), other


def test_scores_are_of_words_only_and_need_no_grad(model):
    ids = captions(3, 5)
    with torch.no_grad():
        scores = gass(model.base_model, ids, torch.randn(2, 16, dtype=torch.float64), GASSOptions(layers=4))
    assert not scores.requires_grad
    assert float(scores[0, [0, 4, 5, 10]].abs().sum()) == 0
    assert float(scores[1, [0, 6, 10]].abs().sum()) == 0
    assert float(scores.min()) >= 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_inference_mode_and_frozen_weights(model):
    ids, images = captions(3, 5), torch.randn(2, 16, dtype=torch.float64)
    expected = gass(model.base_model, ids, images, GASSOptions(layers=4))
    with torch.inference_mode():
        inside = gass(model.base_model, ids.clone(), images * 1, GASSOptions(layers=4))
    model.requires_grad_(False)
    assert torch.equal(inside, expected)
    assert torch.equal(gass(model.base_model, ids, images, GASSOptions(layers=4)), expected)


def test_a_sample_scaled_by_itself_does_not_depend_on_its_batch(model):
    ids, images = captions(9, 2, 4), torch.randn(3, 16, dtype=torch.float64)
    options = GASSOptions(scale="sample", layers=4)
    together = gass(model.base_model, ids, images, options)
    alone = torch.cat([gass(model.base_model, ids[i : i + 1], images[i : i + 1], options) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-9)


def test_captions_without_words_and_no_captions(model):
    images = torch.randn(2, 16, dtype=torch.float64)
    assert not gass(model.base_model, captions(0, 0), images, GASSOptions(layers=4)).any()
    assert gass(model.base_model, captions(), images[:0], GASSOptions(layers=4)).shape == (0, 11)


def test_bad_arguments(model):
    with pytest.raises(ValueError, match="8 layers cannot be scored in a text tower of 4"):
        gass(model.base_model, captions(2), torch.randn(1, 16).double())
    with pytest.raises(ValueError, match="1 captions have 2 images"):
        gass(model.base_model, captions(2), torch.randn(2, 16).double(), GASSOptions(layers=4))


def test_pooling_by_hand():
    y = torch.tensor([1.0, 3.0, 5.0, 7.0, 100.0])[None, :, None]
    # groups of two: 2, 6 and the rest, 100; centres 0.5, 1.5, 2.5 of three are stretched over five positions
    places = [(i + 0.5) * 3 / 5 - 0.5 for i in range(5)]
    groups = [2.0, 6.0, 100.0]
    stretched = []
    for place in places:
        place = min(max(place, 0.0), 2.0)
        low = min(int(place), 1)
        stretched.append(groups[low] * (1 - (place - low)) + groups[low + 1] * (place - low))
    expected = (y[0, :, 0] + torch.tensor(stretched)) / 2
    assert torch.allclose(multi_scale_pool(y, (1, 2))[0, :, 0], expected)
    assert torch.equal(multi_scale_pool(y, (1,)), y)


def test_stretch():
    valid = torch.tensor([[False, True, True], [False, True, True]])
    total = torch.tensor([[9.0, -3.0, 2.0], [9.0, 1.0, 4.0]])
    assert stretch(total, valid, "batch").tolist() == [[0, 0, 0.5], [0, 0.25, 1]]
    assert stretch(total, valid, "sample").tolist() == [[0, 0, 1], [0, 0.25, 1]]
    assert not stretch(-total.abs(), valid, "batch").any()
