import json

import numpy as np
import pytest
import torch
from PIL import Image

from attn.core.errors import InputError, UsageError
from attn.core.retrieve.priorclip.data import label_warning, of_scenes, read_dataset, scene_label, synthetic
from attn.core.retrieve.priorclip.scenes import COLOURS, KINDS, NUMBERS, draw_scenes, write_scenes
from attn.core.retrieve.priorclip.text import clean_caption


@pytest.fixture(scope="module")
def scenes():
    return draw_scenes(32, seed=4)


def test_same_seed_same_scenes_and_another_seed_others(scenes):
    again, other = draw_scenes(32, seed=4), draw_scenes(32, seed=5)
    assert all(
        np.array_equal(a.pixels, b.pixels) and a.captions == b.captions for a, b in zip(scenes, again, strict=True)
    )
    assert not any(np.array_equal(a.pixels, b.pixels) for a, b in zip(scenes, other, strict=True))


def test_captions_say_what_is_drawn(scenes):
    """The colour of the objects, their number and their place, read back from pixels and mask."""
    from scipy.ndimage import label

    for scene in scenes:
        number, colour = scene.captions[0].split()[:2]
        assert label(scene.objects, np.ones((3, 3)))[1] <= NUMBERS.index(number) + 1  # neighbours can touch
        painted = np.median(scene.pixels[scene.objects], axis=0) / 255
        nearest = min(COLOURS, key=lambda name: np.abs(painted - COLOURS[name]).sum())
        assert nearest == colour
        y, x = (float(axis.mean()) for axis in np.nonzero(scene.objects))
        caption = scene.captions[0]
        if "centre" not in caption:
            assert ("upper" in caption) == (y < 32)
            assert ("left" in caption) == (x < 32)
        assert scene.label == scene_label(scene.name)
        assert KINDS[scene.label].phrase in caption


def test_object_counts_are_real():
    """Counted where objects cannot touch: squares of a residential area."""
    from scipy.ndimage import label

    seen = set()
    for scene in draw_scenes(160, seed=0)[6::8]:
        count = NUMBERS.index(scene.captions[0].split()[0]) + 1
        assert label(scene.objects)[1] == count
        seen.add(count)
    assert seen == {1, 2, 3, 4}


def test_written_scenes_read_back(scenes, tmp_path):
    path = write_scenes(tmp_path / "ünï data", {"train": scenes[:20], "val": scenes[20:26], "test": scenes[26:]})
    found, notes = read_dataset(path, 64)
    assert not notes
    assert {split: len(pictures) for split, pictures in found.items()} == {"train": 20, "val": 6, "test": 6}
    direct = of_scenes(scenes[:20])
    assert torch.equal(found["train"].images, direct.images)
    assert found["train"].captions == direct.captions
    assert found["train"].labels == direct.labels
    assert found["train"].objects is None
    assert found["val"].caption_image.tolist() == np.repeat(np.arange(6), 5).tolist()


def test_two_scenes_of_one_name_are_refused(scenes, tmp_path):
    with pytest.raises(ValueError, match="same name"):
        write_scenes(tmp_path, {"train": scenes[:2], "test": scenes[:1]})


def entry(name="harbour_1.png", split="train", *captions):
    return {"filename": name, "split": split, "sentences": [{"raw": c} for c in captions or ("Two boats.",)]}


def dataset(tmp_path, entries, side=40):
    for one in entries:
        Image.new("RGB", (side, side // 2), (10, 120, 200)).save(tmp_path / one["filename"])
    (tmp_path / "data.json").write_text(json.dumps({"images": entries}))
    return tmp_path / "data.json"


def test_pictures_of_any_size_beside_the_file_and_a_held_out_part(tmp_path):
    path = dataset(tmp_path, [entry(f"harbour_{i}.png") for i in range(20)])
    found, notes = read_dataset(path, 24)
    assert found["train"].images.shape == (18, 3, 24, 24)
    assert found["val"].names == ("harbour_9.png", "harbour_19.png")
    assert found["train"].images[0, :, 5, 5].tolist() == [10, 120, 200]
    assert "test" not in found
    assert "no split val" in notes[0]


def test_restval_is_training(tmp_path):
    path = dataset(tmp_path, [entry("a_1.png", "restval"), entry("a_2.png", "val")])
    assert read_dataset(path, 16)[0]["train"].names == ("a_1.png",)


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ([entry("a_1.png", "val")], "no pictures of the split train"),
        ([entry("a_1.png", "training")], "split 'training'"),
        ([entry("a_1.png", "train", "..!")], "caption '..!' has no words"),
        ([entry("a_1.png") | {"sentences": []}], "0 captions"),
        ([{"filename": "a_1.png", "split": "train"}], "sentences"),
        ([entry("a_1.png")], "has neither val nor 10"),
        ([entry("a_1.png"), entry("a_1.png", "test")], "a_1.png for training and for testing"),
    ],
)
def test_bad_entries_name_the_file(tmp_path, entries, match):
    path = dataset(tmp_path, entries)
    with pytest.raises(InputError, match=match):
        read_dataset(path, 16)


def test_a_training_list_with_one_caption_an_entry(tmp_path):
    """PIR's form: no splits, entries of one picture apart."""
    dataset(tmp_path, [entry(f"a_{i}.png") for i in range(10)])
    words = ("two boats", "no boats")
    rows = [{"image": f"a_{i}.png", "caption": caption, "label": 0} for i in range(10) for caption in words]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    found, _ = read_dataset(tmp_path / "train.json", 16)
    assert len(found["train"]) == 9
    assert found["train"].captions[0] == words


def test_missing_files(tmp_path):
    with pytest.raises(UsageError, match="is no file"):
        read_dataset(tmp_path / "absent.json", 16)
    path = dataset(tmp_path, [entry(f"a_{i}.png") for i in range(20)])
    (tmp_path / "a_3.png").unlink()
    with pytest.raises(InputError, match=r"a_3\.png"):
        read_dataset(path, 16)


def test_labels_of_their_own_are_warned_of():
    assert label_warning(["harbour", "desert"] * 50, 32) is None
    assert "batch of 32 holds" in label_warning([scene_label(f"{i}.tif") for i in range(100)], 32)
    assert scene_label("images/baseball_field_3.png") == "baseball"  # the official rule: before the first "_"


def test_synthetic_splits_are_disjoint_and_never_empty():
    found = synthetic({"train": 8, "val": 4, "test": 4}, seed=1, size=32)
    names = [name for pictures in found.values() for name in pictures.names]
    assert len(set(names)) == 16
    assert found["train"].images.shape == (8, 3, 32, 32)
    assert found["train"].objects.shape == (8, 32, 32)
    assert 0 < found["train"].objects.float().mean() < 0.2
    assert all(clean_caption(c) == c for row in found["train"].captions for c in row)
    with pytest.raises(UsageError, match="val must have at least one"):
        synthetic({"train": 8, "val": 0, "test": 4}, seed=1)
