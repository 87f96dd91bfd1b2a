import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attn.core.errors import InputError, UsageError
from attn.core.segment.companions import core_of
from attn.core.segment.prepare import Preparation
from attn.core.train.fsgnet import example as fsgnet
from attn.core.train.fsgnet.data import IMAGES, LABELS, by_stem, find_all_pairs, find_pairs, left_out, read_splits
from attn.core.train.fsgnet.example import FINER, Example, load_example
from attn.core.train.fsgnet.run import split


def touch(root, *names):
    """Empty files: pairs are matched by name alone."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def names(pairs):
    return [(pair.name, pair.image.name, pair.label.name, pair.fov and pair.fov.name) for pair in pairs]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("21_training.tif", "21"), ("21_manual1.gif", "21"), ("21_training_mask.gif", "21"), ("01_test.tif", "01"),
        ("01_manual2.gif", "01"), ("Image_01L.jpg", "image_01l"), ("Image_01L_1stHO.png", "image_01l"),
        ("im0001.ah.ppm", "im0001"), ("im0001.ppm", "im0001"), ("12_h_vessels.png", "12_h"), ("A-Label.PNG", "a"),
        ("manual.png", "manual"), ("training.png", "training"), ("attest.png", "attest"), ("15.dr.png", "15_dr"),
        ("Image_01L_2ndHO.png", "image_01l"), ("x_training_manual1_mask.png", "x"),
    ],
)  # fmt: skip
def test_stem(tmp_path, name, stem):
    assert core_of((tmp_path / name).stem) == stem


def test_original_layout_of_drive_enters_the_training_folder_alone(tmp_path):
    touch(tmp_path, "training/images/22_training.tif", "training/images/21_training.tif")
    touch(tmp_path, "training/1st_manual/21_manual1.gif", "training/1st_manual/22_manual1.gif")
    touch(tmp_path, "training/mask/21_training_mask.gif")
    touch(tmp_path, "test/images/01_test.tif", "test/1st_manual/01_manual1.gif", "test/2nd_manual/01_manual2.gif")
    assert names(find_pairs(tmp_path)) == [
        ("21", "21_training.tif", "21_manual1.gif", "21_training_mask.gif"),
        ("22", "22_training.tif", "22_manual1.gif", None),
    ]


def test_pairs_go_by_name_and_never_by_order(tmp_path):
    touch(tmp_path, "images/b.png", "images/c.jpg", "images/.hidden.png", "images/notes.txt")
    touch(tmp_path, "labels/a.png", "labels/b_label.png", "labels/c.gif", "labels/Thumbs.db")
    assert names(find_pairs(tmp_path)) == [("b", "b.png", "b_label.png", None), ("c", "c.jpg", "c.gif", None)]


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("labels", LABELS)
def test_folder_names(tmp_path, images, labels):
    touch(tmp_path, f"{images}/1.png", f"{labels}/1.png")
    assert names(find_pairs(tmp_path)) == [("1", "1.png", "1.png", None)]


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(UsageError, match="is no directory"):
        find_pairs(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no folder of images and labels"):
        find_pairs(tmp_path)
    touch(tmp_path, "images/1.png")
    with pytest.raises(UsageError, match=r"no folder of labels.*manual/ \(or 1st_manual"):
        find_pairs(tmp_path)
    touch(tmp_path / "other", "labels/1.png")
    with pytest.raises(UsageError, match="no folder of images"):
        find_pairs(tmp_path / "other")


def test_missing_labels_are_counted(tmp_path):
    touch(tmp_path, "images/1.png", "images/2.png", "manual/1.png")
    with pytest.raises(UsageError, match=r"no label in .* for 2\.png$"):
        find_pairs(tmp_path)
    touch(tmp_path, "images/3.png", "images/4.png")
    with pytest.raises(UsageError, match=r"for 2\.png and 2 more\."):
        find_pairs(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        ("images/21.png", "images/21_training.png", "manual/21.png"),
        ("images/21.png", "images/21.jpg", "manual/21.png"),
        ("images/a.png", "images/A.png", "manual/a.png"),
    ],
)
def test_ambiguous_stems(tmp_path, files):
    touch(tmp_path, *files)
    with pytest.raises(InputError, match=r"has the same stem as") as caught:
        find_pairs(tmp_path)
    assert "one picture per name" in caught.value.fix


def test_second_observers_of_another_name_are_left_out(tmp_path):
    touch(tmp_path, "images/Image_01L.jpg", "manual/Image_01L_1stHO.png", "manual/Image_01L_2ndHO.png")
    pairs = find_pairs(tmp_path)
    assert names(pairs) == [("image_01l", "Image_01L.jpg", "Image_01L_1stHO.png", None)]
    assert pairs[0].left_out == "Image_01L_2ndHO.png"
    assert left_out(pairs) == [
        "1 labels of a second observer were left out, the first's serve (such as Image_01L_2ndHO.png)."
    ]


def write_split(root, value):
    (root / "splits.json").write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def test_split_keeps_the_test_half_out(tmp_path):
    touch(tmp_path, *(f"images/{n}.png" for n in ("01", "02", "21", "22")), "manual/21.png", "manual/22.png")
    write_split(tmp_path, {"train": ["21", 22], "test": ["01", "02"]})  # no labels of the test half: nothing to miss
    assert [pair.name for pair in find_pairs(tmp_path)] == ["21", "22"]


@pytest.mark.parametrize(
    "value", ["{", pytest.param("[" * 99_999, id="nested"), "[]", "{}", '{"test": []}', '{"train": 3}', "\xff"]
)
def test_split_that_says_nothing(tmp_path, value):
    touch(tmp_path, "images/1.png", "manual/1.png")
    write_split(tmp_path, value)
    with pytest.raises(InputError, match=r"no list named train|is no JSON"):
        find_pairs(tmp_path)


def several(root):
    """Two data sets of three photos each, and a split that names the second's third nowhere."""
    for name in ("one", "two"):
        touch(root, *(f"{name}/{part}/{n}.png" for n in "abc" for part in ("images", "manual")))
    lists = {"one": {"train": ["a", "b"], "held_out": ["c"]}, "two": {"train": ["a"], "held_out": ["b"], "test": ["c"]}}
    (root / "split.json").write_text(json.dumps(lists), encoding="utf-8")
    return [root / "one", root / "two"], root / "split.json"


def test_several_data_sets_are_divided_by_one_split(tmp_path):
    folders, split_file = several(tmp_path)
    found = [(pair.group, pair.name, pair.held_out) for pair in find_all_pairs(folders, split_file)]
    assert found == [
        ("one", "a", False), ("one", "b", False), ("one", "c", True), ("two", "a", False), ("two", "b", True)
    ]  # fmt: skip
    assert [pair.held_out for pair in find_all_pairs(folders, None)] == [False] * 6


def test_splits_that_cannot_be_used(tmp_path):
    folders, split_file = several(tmp_path)
    with pytest.raises(UsageError, match=r"two folders one: data sets are told apart"):
        find_all_pairs([folders[0], folders[0]], None)
    for lists, message in (
        ({"one": {"train": ["a"]}}, "has no entry two"),
        ({"one": {"train": ["z"]}, "two": {"train": ["a"]}}, "lists z of one, which is not in"),
        ({"one": {"train": ["a"], "held_out": ["a"]}}, "lists a for training and for choosing"),
        ({"one": {"train": ["a"], "held_out": ["b"], "test": ["b"]}}, "lists b for choosing and for testing"),
        ({"one": ["a"]}, "has no list named train"), ([], "has no data sets"), ({}, "has no data sets"),
    ):  # fmt: skip
        split_file.write_text(json.dumps(lists), encoding="utf-8")
        with pytest.raises((UsageError, InputError), match=message):
            find_all_pairs(folders, split_file)


def test_the_split_of_the_shipped_weights_keeps_every_test_half_out(data_dir):
    splits = read_splits(Path(__file__).parents[3] / "benchmarks" / "fundus_split.json")
    used = {name: split.train | split.held_out for name, split in splits.items()}
    assert not used["DRIVE"] & {f"{n:02}" for n in range(1, 21)}
    assert not used["FIVES"] & {"2_a", "3_a", "4_a", "5_a", "10_a"}
    assert used["HRF"] == {f"{n:02}_{kind}" for n in range(1, 11) for kind in ("h", "g", "dr")}
    for name, stems in used.items():
        assert stems <= by_stem(data_dir / "fundus" / name / "images").keys()


def test_drive_never_gives_the_test_half(data_dir, monkeypatch):
    drive = data_dir / "fundus" / "DRIVE"
    pairs = find_pairs(drive)
    split = json.loads((drive / "splits.json").read_text(encoding="utf-8"))
    numbers = [f"{n:02}" for n in range(21, 41)]
    assert [pair.name for pair in pairs] == numbers == split["train"]
    test = {f"{n:02}" for n in range(1, 21)}
    assert set(split["test"]) == test
    for pair in pairs:
        assert {path.parent.name for path in (pair.image, pair.label, pair.fov)} == {"images", "manual", "fov"}
        assert {path.stem for path in (pair.image, pair.label, pair.fov)} == {pair.name}
        assert pair.name not in test
    opened = []
    read = fsgnet.read_photo
    monkeypatch.setattr(fsgnet, "read_photo", lambda path, **options: (opened.append(path), read(path, **options))[1])
    example = load_example(pairs[0], Preparation())
    assert {path.stem for path in opened} == {"21"}
    assert example.name == "21"
    assert example.layers.shape[0] == 5
    label, fov = example.truth
    assert label.shape == fov.shape == example.fov.shape
    assert 0.08 < label[fov].float().mean() < 0.18
    vessel, rest = (example.pixels[1][fov & mask].mean() for mask in (label, ~label))
    assert vessel < rest - 0.02  # vessels are darker: photo and label belong together


@pytest.mark.parametrize("hold_out", [1, 3, 4, 7, 19])
def test_training_and_selection_share_no_photo_and_have_none_of_the_test_half(data_dir, hold_out):
    pairs = find_pairs(data_dir / "fundus" / "DRIVE")
    held, training = split([Example(pair.name, None, None) for pair in pairs], hold_out)
    held, training = ([photo.name for photo in part] for part in (held, training))
    assert len(held) == hold_out
    assert sorted(held + training) == [f"{n}" for n in range(21, 41)]


def pair_of(root, *, size=(70, 60), label_size=None, fov_size=None, vessels=True):
    rng = np.random.default_rng(0)
    yy, xx = np.mgrid[: size[1], : size[0]]
    disc = np.hypot(yy - size[1] / 2, xx - size[0] / 2) < 27
    photo = (rng.integers(60, 200, (size[1], size[0], 3)) * disc[..., None]).astype(np.uint8)
    label = np.zeros(size[::-1], np.uint8)
    if vessels:
        label[:, 30:34] = 255
    for name, pixels, wanted in (
        ("images", photo, None),
        ("manual", label, label_size),
        ("fov", disc * np.uint8(255), fov_size),
    ):
        (root / name).mkdir(exist_ok=True)
        picture = Image.fromarray(pixels)
        (picture.resize(wanted) if wanted else picture).save(root / name / "1.png")
    return find_pairs(root)[0]


def test_label_or_mask_of_another_size(tmp_path):
    with pytest.raises(InputError, match=r"is 60 x 70, its photo 1\.png is not") as caught:
        load_example(pair_of(tmp_path, label_size=(60, 70)), Preparation())
    assert caught.value.path.endswith("1.png")
    assert "manual" in caught.value.path
    with pytest.raises(InputError, match="another size") as caught:
        load_example(pair_of(tmp_path, fov_size=(71, 60)), Preparation())
    assert "fov" in caught.value.path


def test_label_without_vessels_inside_the_field_of_view(tmp_path):
    with pytest.raises(InputError, match="marks no vessel"):
        load_example(pair_of(tmp_path, vessels=False), Preparation())


@pytest.mark.parametrize("diameter", [54.0, 27.0, 108.0])
def test_example_is_cut_scaled_and_masked(tmp_path, diameter):
    example = load_example(pair_of(tmp_path), Preparation(fov_diameter=diameter))
    side = example.layers.shape[1]
    assert side == pytest.approx(diameter, abs=3)
    assert 0 <= example.layers[3].min() < example.layers[3].max() <= 1
    assert set(example.layers[4].unique().tolist()) == {0.0, 1.0}
    assert not (example.layers[:4] * (1 - example.layers[4])).any()  # nothing outside the field of view
    assert example.samples.shape[0] == 3
    assert example.samples.shape[1] == min(4096, int(example.fov.sum()))
    middle = example.layers[3][side // 2]
    assert float(middle.sum()) == pytest.approx(4 * diameter / 54, abs=0.3)  # the label is scaled with its photo


def test_by_stem_reads_only_pictures(tmp_path):
    touch(tmp_path, "a.PNG", "b.txt", "c.npy")
    assert sorted(by_stem(tmp_path)) == ["a", "c"]


def test_a_large_photo_is_kept_at_two_scales_with_the_share_of_each_pixel(tmp_path):
    pairs = pair_of(tmp_path, size=(70, 60))
    small = load_example(pairs, Preparation(fov_diameter=54.0))
    assert small.fine is None
    large = load_example(pairs, Preparation(fov_diameter=27.0))
    assert large.fine is not None
    assert large.fine.shape[1] == pytest.approx(FINER * large.layers.shape[1], abs=1.5)
    assert large.seen_at(1.0) is large.layers
    assert large.seen_at(1.9) is large.fine
    label, fov = large.truth  # scored at the photo's own size
    assert max(label.shape) == pytest.approx(54, abs=1)
    share = large.layers[3]
    assert ((share > 0.1) & (share < 0.9)).any()
    assert float(share[large.fov].mean()) == pytest.approx(float(label[fov].float().mean()), rel=0.15)
