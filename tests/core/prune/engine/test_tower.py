"""What methods see of the image tower is what the language model gets, cell by cell, in models of every class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from prunable import IDEFICS, MAKE, QWEN, question, together, untrained
from torch import Tensor

from attn.core.errors import UsageError
from attn.core.models.family import attention_places
from attn.core.prune.engine.hooks import pruned
from attn.core.prune.engine.moment import Moment, PruneStage, TokenChoice
from attn.core.prune.engine.sites import site_of
from attn.core.prune.engine.tower import Tower, feature_layer, has_class_token


def towers_of(model: Any, inputs: dict[str, Tensor], *layers: int, **generate: Any) -> list[tuple[Tower, Moment]]:
    """What a stage in front of the language model sees, in a call of the model and in an answer."""
    seen = []

    def choose(moment: Moment) -> list[TokenChoice]:
        assert moment.prompts.tower is not None
        seen.append((moment.prompts.tower, moment))
        return [TokenChoice(numbers) for numbers in moment.numbers]

    with pruned(model, [PruneStage(0, choose, tower=layers)]):
        model(**inputs)
        model.generate(**inputs, max_new_tokens=1, do_sample=False, **generate)
    return seen


def check_features(tower: Tower, moment: Moment) -> None:
    tokens = tower.project(tower.features)
    for cells, hidden, places in zip(tower.cells, moment.hidden, moment.places, strict=True):
        made = cells >= 0
        torch.testing.assert_close(tokens[cells[made]], hidden[places][made], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MAKE)
@torch.no_grad()
def test_cells_are_the_visual_tokens(name: str) -> None:
    model = untrained(name)
    site = site_of(model)
    layer = feature_layer(site)
    inputs = together(name, [question(name, seed=1), question(name, pictures=2, before=6, seed=2)])
    for tower, moment in towers_of(model, inputs, layer, num_beams=2):
        check_features(tower, moment)
        ends = 8 if name == "llava_next" else 0  # of the lines of a picture of tiles
        copies = len(moment.numbers) // 2
        assert [int((cells < 0).sum()) for cells in tower.cells] == [ends] * copies + [2 * ends] * copies
        assert [len(tower.tiles(sample)) for sample in (0, copies)] == ([3, 6] if ends else [1, 2])
        assert len(tower.grids) == (9 if ends else 3)
        received = tower.received(layer)
        assert (received > 0).all()
        whole = torch.zeros(len(tower.grids)).index_add(0, tower.views, received)
        if has_class_token(site):
            assert (whole < 1).all()
            assert (tower.class_attention(layer).sum(1) < len(tower.grids)).all()
            assert (tower.class_weights(layer) > 0).all()
        else:
            torch.testing.assert_close(whole, torch.ones_like(whole))
            with pytest.raises(UsageError, match="no class token"):
                tower.class_attention(layer)


@pytest.mark.parametrize("name", ["llava", "internvl", "smolvlm"])
@torch.no_grad()
def test_attention_is_the_eager_one(name: str) -> None:
    model = untrained(name, kernel="eager")
    inputs = question(name)
    if name == "smolvlm":  # a picture with a margin that is none of it
        inputs["pixel_attention_mask"] = torch.ones(1, 1, 32, 32, dtype=torch.bool)
        inputs["pixel_attention_mask"][..., 20:] = False
    weights: list[Tensor] = []
    place = attention_places(site_of(model).tower)[0]
    with place.module.register_forward_hook(lambda module, args, out: weights.append(out[1])):
        model(**inputs)
    tower = towers_of(model, inputs, 0)[0][0]
    prefix = 0 if name in IDEFICS else 1
    attention = weights[0][0].mean(0)  # [n, n]
    rows = attention[:, prefix:].diagonal(-prefix) > 0 if name in IDEFICS else torch.ones(len(attention)).bool()
    wanted = attention[rows].mean(0)[prefix:]
    patches = tower.patches[0] - prefix
    torch.testing.assert_close(tower.received(0), wanted[patches].sum(1), atol=1e-6, rtol=0)
    if prefix:
        row = weights[0][0, :, 0, 1:]
        torch.testing.assert_close(tower.class_attention(0), row[:, patches].sum(-1), atol=1e-6, rtol=0)
    some = torch.arange(len(patches)) % 3 == 0
    chosen = attention[(patches[some].flatten() + prefix)[rows[patches[some].flatten() + prefix]]].mean(0)[prefix:]
    torch.testing.assert_close(tower.received(0, some), chosen[patches].sum(1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", QWEN)
@torch.no_grad()
def test_videos_beside_pictures(name: str) -> None:
    """Both kinds of tokens in one prompt, the video first; every frame is a view of its own."""
    model = untrained(name)
    picture = question(name)
    ids = torch.tensor([[1, 75, *[76] * 16, 74, *picture["input_ids"][0].tolist()]])
    kinds = (ids == 77).int() + 2 * (ids == 76).int()
    video = {
        "pixel_values_videos": torch.randn(64, 96), "video_grid_thw": torch.tensor([[2, 4, 8]]),
    }  # fmt: skip
    inputs = picture | video | {"input_ids": ids, "attention_mask": ids.ne(0).long(), "mm_token_type_ids": kinds}
    for tower, moment in towers_of(model, inputs, 1):
        check_features(tower, moment)
        assert sorted(tower.grids) == [(2, 4), (2, 4), (4, 6)]
        assert [len(tile) for tile in tower.tiles(0)] == [24, 8, 8]


@torch.no_grad()
def test_features_made_elsewhere_are_refused() -> None:
    model, inputs = untrained("llava"), question("llava")
    features = model.get_image_features(inputs.pop("pixel_values"), return_dict=True)
    stage = PruneStage(0, lambda moment: [TokenChoice(numbers) for numbers in moment.numbers], tower=(0,))
    with pytest.raises(UsageError, match="before the block: pass the pixels"), pruned(model, [stage]):
        model(**inputs, mm_encoder_outputs={"image": features})
    with (
        pytest.raises(UsageError, match=r"layer 7: .* has layers 0 to 1"),
        pruned(model, [PruneStage(0, list, tower=(7,))]),
    ):
        pass
