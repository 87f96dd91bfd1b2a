"""`attn probe distance` on small models: two domains, boxes, a model before, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers as hf
from encoder_folders import write
from PIL import Image, ImageFilter
from small_models import PREPROCESSOR, photo, vision_folder

from attn.core.bundles import Placement
from attn.core.errors import UsageError
from attn.core.models import embedded
from attn.core.models.load import load_model
from attn.core.probe import panel
from attn.core.probe.distance.options import DistanceOptions, SourcePictures
from attn.core.probe.distance.run import run
from attn.core.probe.panel import draw_figure, read_figure
from attn.core.probe.trust.randomised import randomised
from attn.core.prune.data.drawn import drawn_samples
from attn.core.report.model import Report

MODEL = "model"


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn where a test asks for it: each takes half a second."""
    monkeypatch.setattr(panel, "draw_figure", lambda path, data: path.write_bytes(data.title.encode()))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and two domains: noise, and darker noise of another size with boxes."""
    root = tmp_path_factory.mktemp("distance")
    vision_folder(root / MODEL)
    for number in range(6):
        photo(root / f"source/{number}.png", (24, 24), number)
        photo(root / f"target/{number}.png", (48, 32), 10 + number)
    return root


def options(root: Path, *, target: bool = True, **other: Any) -> DistanceOptions:
    inputs = SourcePictures((str(root / "source"),), str(root / "out"))
    chosen = {"model": str(root / MODEL), "checked": 0, "device": "cpu", **other}
    return DistanceOptions(inputs, (str(root / "target"),) if target else (), **chosen)


def sections(report: Report) -> dict[str, Any]:
    return {section.name: section for section in report.sections}


def test_two_domains(place: Path) -> None:
    report = run(options(place))
    assert [item.status for item in report.items] == ["ok"] * 12
    assert len({item.output for item in report.items}) == 12
    far: dict[str, list[Any]] = {"source": [], "target": []}
    for item in report.items:
        with np.load(item.files["arrays"]) as arrays:
            assert arrays["distance_patches"].shape == arrays["dropped"].shape == (2, 2)
            far["target" if "/target/" in item.input else "source"].append(arrays["distance_patches"])
    one, two = (np.array(of).mean((0, 2)) for of in far.values())
    rows = sections(report)["change_0"].rows()
    assert [row["layer"] for row in rows] == ["0", "1", "mean"]
    assert np.allclose([row["percent"] for row in rows[:2]], 100 * (two / one - 1), atol=1e-3)
    assert all(row["low"] <= row["percent"] <= row["high"] for row in rows)
    assert report.summary["change_percent"] == pytest.approx(rows[-1]["percent"])
    assert report.summary["distance_patches_source"] == pytest.approx(one.mean(), rel=1e-5)
    assert any(notice.startswith("target against source: attention distance") for notice in report.notices)
    domains = sections(report)["domains"].rows()
    assert [row["domain"] for row in domains] == ["source"] * 2 + ["target"] * 2
    assert domains[0]["uniform_patches"] == pytest.approx(2.04, abs=0.1)
    assert domains[0]["distance_diagonal"] == pytest.approx(one[0] / (3 * 2**0.5), rel=1e-5)
    facts = Path(report.files["facts"])
    assert facts.name == "domains.distance.json"
    drawn = [place / "once.png", place / "twice.png"]
    for data in (read_figure(facts), read_figure(Path(report.items[0].files["facts"]))):
        for path in drawn:
            draw_figure(path, data)
        assert drawn[0].read_bytes() == drawn[1].read_bytes()
        text = Image.open(drawn[0]).text
        assert (text["attn-kind"], text["attn-model"]) == (data.kind, str(place / MODEL))
    # what is there is taken from there, and compared as before
    later = run(options(place))
    assert {item.status for item in later.items} == {"skipped"}
    assert sections(later)["change_0"].rows() == rows
    # results of other settings are not mixed in
    other = run(options(place, seed=1))
    assert any("12 pictures are left out of the comparison" in notice for notice in other.notices)
    assert other.files == {}


def test_boxes(place: Path, tmp_path: Path) -> None:
    """The middles of 4 x 4 patches of 6 pixels, on the left half of the first picture; the others have faults."""
    images = [{"id": n, "file_name": f"source/{n}.png", "width": 24, "height": 24} for n in range(5)]
    images[4]["width"] = 23
    boxes = {0: [[-2, 0, 14, 24]], 1: [[3, 3, 0, 9], [30, 0, 2, 2]], 2: [], 3: [[0, 0, 24, 24]], 4: [[0, 0, 2, 2]]}
    annotations = [{"image_id": of, "bbox": box} for of, each in boxes.items() for box in each]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    given = replace(options(place, boxes=(path,)), placement=Placement(overwrite=True))
    report = run(given)
    first, second, third, fourth, fifth, sixth = report.items[:6]
    with np.load(first.files["arrays"]) as arrays:
        assert arrays["objects"].tolist() == [[True, True, False, False]] * 4
        assert arrays["boxes"].tolist() == [[0, 0, 12, 24]]
        assert np.allclose(arrays["fg_to_fg"] + arrays["fg_to_bg"], 1, atol=1e-5)
        assert first.metrics["bg_to_fg"] == pytest.approx(arrays["bg_to_fg"].mean())
    assert any("1 of 1 boxes reach beyond" in line for line in first.warnings)
    assert [line.split(" and")[0] for line in second.warnings[:2]] == [
        "1 of 2 boxes have no area", "1 of 2 boxes lie outside the picture",
    ]  # fmt: skip
    assert "no middle of a patch" in second.warnings[2]
    assert "has no boxes" in third.warnings[0]
    assert "every patch lies in a box" in fourth.warnings[0]
    assert fifth.status == "failed"
    assert "of 23 x 24 and 24 x 24 pixels" in str(fifth.error)
    assert "does not name it" in sixth.warnings[0]
    rows = sections(report)["domains"].rows()
    assert rows[0]["pictures_with_objects"] == 1
    assert "fg_to_fg" not in rows[-1]
    assert any("name 5 of 12 pictures" in notice for notice in report.notices)
    with pytest.raises(UsageError, match="no picture's path ends in"):
        run(replace(options(place, target=False, boxes=(path,)), inputs=SourcePictures((str(place / "target"),))))
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "3.png"}], "annotations": []}) + " ")
    from attn.core.probe.distance.boxes import read_boxes

    read_boxes.cache_clear()
    with pytest.raises(UsageError, match=r"boxes of 3\.png would be those of .*source/3\.png and of .*target/3\.png"):
        run(given)


def test_the_model_before(place: Path, tmp_path: Path) -> None:
    """The same weights: no change at all. A model of another shape: refused."""
    inputs = SourcePictures((str(place / "source"),), str(tmp_path / "out"))
    given = replace(options(place, target=False, before=str(place / MODEL)), inputs=inputs)
    report = run(given)
    (row, *_), item = sections(report)["change_0"].rows(), report.items[0]
    assert (row["percent"], row["low"], row["high"], row["excludes_0"]) == (0, 0, 0, "no")
    assert item.metrics["distance_before"] == pytest.approx(item.metrics["distance_patches"])
    assert any("after against before, source" in notice and "no difference" in notice for notice in report.notices)
    assert any(notice.startswith("one domain") for notice in report.notices)
    config = hf.ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, image_size=16, patch_size=8
    )
    hf.ViTModel(config).save_pretrained(tmp_path / "other")
    write(tmp_path / "other/preprocessor_config.json", PREPROCESSOR)
    with pytest.raises(UsageError, match=r"before .*: it has 3 layers of 2 heads on 2 x 2 patches, the model 2"):
        run(replace(given, before=str(tmp_path / "other"), placement=Placement(overwrite=True)))
    with pytest.raises(UsageError, match="before: no model named 'nothing'"):
        run(replace(given, before="nothing"))


def test_what_is_refused(place: Path, tmp_path: Path) -> None:
    given = options(place)
    picture = str(place / "source/0.png")
    with pytest.raises(UsageError, match=r"target: .*0\.png is among the pictures of the source"):
        run(replace(given, target=(picture,)))
    with pytest.raises(UsageError, match="Name a directory"):
        run(replace(given, inputs=SourcePictures((picture,), str(tmp_path / "one.png"))))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="nothing to read"):
        run(replace(given, target=(str(tmp_path / "empty"),)))
    with pytest.raises(UsageError, match="not of both"):
        run(replace(given, inputs=SourcePictures(("-",)), target=("-",)))
    clash = photo(tmp_path / "in/domains.png")
    with pytest.raises(UsageError, match="name of the comparison"):
        run(replace(given, target=(str(clash),)))


def test_models_that_do_not_attend_among_all_patches(place: Path, tmp_path: Path) -> None:
    """Windows, and none at all: one line that names the class."""
    swin = hf.SwinModel(hf.SwinConfig(image_size=16, patch_size=4, embed_dim=8, depths=[1], num_heads=[2]))
    resnet = hf.ResNetModel(hf.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
    for model, what in ((swin, "swin"), (resnet, "resnet")):
        model.save_pretrained(tmp_path / what)
        write(tmp_path / what / "preprocessor_config.json", PREPROCESSOR)
        with pytest.raises(UsageError, match=what):
            run(replace(options(place), model=str(tmp_path / what), placement=Placement(overwrite=True)))


def test_one_pixel_and_a_quoted_pattern(place: Path, tmp_path: Path) -> None:
    tiny = photo(tmp_path / "tiny/a.png", (2, 1))
    Image.new("L", (1, 1), 90).save(tmp_path / "tiny/b.png")
    Image.open(photo(tmp_path / "c.png")).convert("CMYK").save(tmp_path / "tiny/c.tif")
    inputs = SourcePictures((str(tiny), str(tmp_path / "tiny/b.png")), str(tmp_path / "out"))
    report = run(replace(options(place), inputs=inputs, target=(str(tmp_path / "tiny/*.tif"),)))
    assert [item.status for item in report.items] == ["ok", "failed", "ok"]
    assert 0 < report.items[0].metrics["distance_px"] < 2
    assert "all of one colour" in str(report.items[1].error)
    assert any("must be quoted" in notice for notice in report.notices)
    assert "low" not in sections(report)["change_0"].rows()[0]
    assert any("no interval" in notice for notice in report.notices)


def test_trust(tmp_path: Path) -> None:
    """Weights that were trained stand out; the same model with weights drawn at random turns every line red."""
    for number, scene in enumerate(drawn_samples("shapes:colour:5x4", 0)[:2]):
        picture = Image.fromarray(np.asarray(scene.picture))
        for domain, one in (("a", picture), ("b", picture.convert("L").filter(ImageFilter.GaussianBlur(4)))):
            (tmp_path / domain).mkdir(exist_ok=True)
            one.save(tmp_path / domain / f"{domain}{number}.png")
    loaded = load_model("shapes-vit", "vision")
    folder = tmp_path / "random"
    with randomised(loaded.model, 4242):
        loaded.model.save_pretrained(folder)
    shipped = embedded.EMBEDDED["shapes-vit"].path()
    (folder / "preprocessor_config.json").write_bytes((shipped / "preprocessor_config.json").read_bytes())
    for model, least, most in (("shapes-vit", 4, 6), (str(folder), 0, 0)):
        inputs = SourcePictures((str(tmp_path / "a"),), str(tmp_path / f"out-{least}"))
        report = run(DistanceOptions(inputs, (str(tmp_path / "b"),), model=model, checked=2, device="cpu"))
        lines = [line for one in [*report.items, report] for s in one.sections if s.name == "trust" for line in s.lines]
        assert len(lines) == 2 * 2 + 2
        assert least <= sum(line.passed for line in lines) <= most
        with np.load(report.items[0].files["arrays"]) as arrays:
            assert len(arrays["untrained"]) == 8
