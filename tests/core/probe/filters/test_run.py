"""`attn probe filters` over files and folders: results, resuming, comparing, and what is refused in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import photo, vision_folder
from torch import Tensor, nn

from attn.core.bundles import Placement
from attn.core.errors import UsageError
from attn.core.options import OptionError
from attn.core.probe.filters.options import FiltersOptions, Models, parse_patterns
from attn.core.probe.filters.read import FilterBank, banks_of_module
from attn.core.probe.filters.run import run
from attn.core.probe.filters.statistics import statistics
from attn.core.probe.filters.suggest import narrow_field, suggestions
from attn.core.probe.filters.trust import trust_lines
from attn.core.probe.redraw import FigureFiles, RedrawOptions
from attn.core.probe.redraw import run as redraw
from attn.core.report.model import Item
from attn.core.report.sections import Table, Trust


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 6, 1),
        nn.ConvTranspose2d(6, 4, 2), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip


def smooth(weight: Tensor) -> Tensor:
    """What training might make of weights: few smooth kernels, and some large."""
    line = torch.exp(-((torch.arange(weight.shape[-1]) - 1.5) ** 2) / 3)
    kernel = torch.outer(line, line)
    strength = torch.randn(weight.shape[:2], generator=torch.Generator().manual_seed(5)) ** 3
    return 0.1 * weight + strength[..., None, None] * kernel


def state(path: Path, seed: int = 0, **changed: Any) -> Path:
    torch.save({**network(seed).state_dict(), **changed}, path)
    return path


def look(tmp_path: Path, *names: Path | str, **options: Any) -> Any:
    return run(FiltersOptions(Models(tuple(map(str, names)), str(tmp_path / "out")), **options))


def table(item: Item, name: str) -> list[Any]:
    return [row for section in item.sections if section.name == name for row in section.rows()]


def test_a_file_of_weights(tmp_path: Path) -> None:
    path = state(tmp_path / "net.pt")
    report = look(tmp_path, path)
    (item,) = report.items
    assert item.status == "ok", item.error
    rows = {row["layer"]: row for row in table(item, "layers")}
    assert list(rows) == ["0", "3", "4", "5"]
    assert (rows["0"]["kernel"], rows["0"]["filters"], rows["3"]["channels"]) == ("5 x 5", 8, 1)
    assert rows["0"]["macs"] is None
    assert np.isnan(rows["4"]["separability"])
    weight = network()[0].weight
    assert rows["0"]["effective_rank"] == pytest.approx(statistics(weight).effective_rank)
    document = json.loads((tmp_path / "out/net.filters.json").read_text())
    assert document["tables"]["layers"][2]["separability"] is None
    figure = (tmp_path / "out/net.filters.png").read_bytes()
    redraw(RedrawOptions(FigureFiles((str(tmp_path / "out/net.filters.json"),)), Placement(overwrite=True)))
    assert (tmp_path / "out/net.filters.png").read_bytes() == figure
    again = look(tmp_path, path)
    assert (again.items[0].status, again.items[0].warnings) == ("skipped", ())
    other = look(tmp_path, path, layers=("0",))
    assert "other settings" in other.items[0].warnings[0]


def test_folders_lists_and_workers(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    state(tmp_path / "in/a.pth")
    (tmp_path / "in/b.pt").write_bytes(b"no model")
    model = vision_folder(tmp_path / "model")
    report = look(tmp_path, tmp_path / "in", model)
    assert {Path(item.input).name: item.status for item in report.items} == {
        "model": "ok", "a.pth": "ok", "b.pt": "failed",
    }  # fmt: skip
    assert report.exit_code == 1
    item = report.items[0]
    assert item.metrics["receptive_field"] == item.metrics["macs"] / (4 * 4 * 3 * 4 * 4) / 4 == 4  # patches of 4 x 4
    assert (tmp_path / "out/model.filters.png").exists()


def test_what_a_model_does_on_pictures(tmp_path: Path) -> None:
    model = vision_folder(tmp_path / "model")
    for number in range(3):
        photo(tmp_path / f"photos/{number}.png", seed=number)
    (tmp_path / "photos/broken.png").write_bytes(b"no picture")
    report = look(tmp_path, model, state(tmp_path / "net.pt"), data=str(tmp_path / "photos"), object_size=9)
    first, second = report.items
    assert first.status == second.status == "ok", (first.error, second.error)
    (row,) = table(first, "layers")
    assert row["output_variance"] > 0
    assert row["field_radius_90"] < 4
    assert any("broken.png" in warning for warning in first.warnings)
    assert any("sees 4 pixels, objects have 9" in row["suggestion"] for row in table(first, "suggestions"))
    assert any("cannot be run on pictures" in warning for warning in second.warnings)
    assert any("cannot be told" in warning for warning in second.warnings)
    with pytest.raises(OptionError, match=r"data .*does not exist"):
        look(tmp_path, model, data=str(tmp_path / "nothing"))


def test_compare(tmp_path: Path) -> None:
    before = state(tmp_path / "before.pt")
    weights = network().state_dict()
    after = state(tmp_path / "after.pt", **{"0.weight": 2 * weights["0.weight"], "3.weight": -weights["3.weight"]})
    (item,) = look(tmp_path, after, compare=str(before)).items
    moved = {row["layer"]: row for row in table(item, "moved")}
    assert moved["0"]["cosine"] == pytest.approx(1)
    assert moved["0"]["moved_relative"] == pytest.approx(1)
    assert moved["3"]["least_cosine"] == pytest.approx(-1)
    assert moved["4"]["moved"] == 0
    other = tmp_path / "other.pt"
    torch.save(
        {"0.weight": torch.randn(8, 3, 5, 5), "4.weight": torch.randn(9, 8, 1, 1), "z.weight": torch.randn(2, 2, 3, 3)},
        other,
    )
    (item,) = look(tmp_path, other, compare=str(before)).items
    assert [row["layer"] for row in table(item, "moved")] == ["0"]
    assert any("not in" in warning and "z" in warning for warning in item.warnings)
    assert any("another shape" in warning for warning in item.warnings)
    torch.save({"z.weight": torch.randn(2, 2, 3, 3)}, other)
    (item,) = look(tmp_path, other, compare=str(before), placement=Placement(overwrite=True)).items
    assert item.status == "failed"
    assert "no layer of one name and shape" in str(item.error)
    with pytest.raises(OptionError, match=r"compare .*does not exist"):
        look(tmp_path, after, compare=str(tmp_path / "nothing.pt"))


def test_sick_layers_come_first_and_count_for_nothing(tmp_path: Path) -> None:
    weight = network()[0].weight.detach().clone()
    weight[0, 0, 0, 0], weight[1, 0, 0, 0] = float("nan"), float("inf")
    (item,) = look(tmp_path, state(tmp_path / "net.pt", **{"0.weight": weight})).items
    assert item.sections[0].name == "sick"
    assert table(item, "sick") == [{"layer": "0", "nan": 1, "infinite": 1}]
    assert [row["layer"] for row in table(item, "layers")] == ["3", "4", "5"]
    assert item.metrics["sick_layers"] == 1
    assert "NaN or infinite" in item.warnings[0]
    (item,) = look(
        tmp_path,
        state(tmp_path / "one.pt", **{f"{n}.weight": torch.full((2, 2, 3, 3), torch.nan) for n in (0, 3, 4, 5)}),
    ).items
    assert (item.status, item.metrics["layers"]) == ("ok", 0)


@pytest.mark.filterwarnings("ignore")
def test_what_is_refused(tmp_path: Path) -> None:
    def refused(content: Any, name: str = "bad.pt") -> str:
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        else:
            torch.save(content, tmp_path / name)
        (item,) = look(tmp_path, tmp_path / name).items
        assert (item.status, item.traceback) == ("failed", "")
        assert "\n" not in str(item.error)
        return str(item.error)

    assert "could run code" in refused(network())
    assert "neither a safetensors file" in refused(b"a text that is no model at all")
    assert "damaged" in refused(b"PK\x03\x04 no archive")
    assert "no weights by name (list)" in refused([1, 2])
    assert "linear.weight [2, 3]" in refused({"linear.weight": torch.zeros(2, 3), "linear.bias": torch.zeros(2)})
    quantised = {"a.weight": torch.zeros(4, 3, 3, 3, dtype=torch.int8)}
    assert "quantised weights without a scale" in refused(quantised)
    assert "computed from other tensors" in refused({"a.weight_v": torch.zeros(4, 3, 3, 3)})
    torch.jit.save(torch.jit.script(network()), tmp_path / "script.pt")
    assert "scripted" in str(look(tmp_path, tmp_path / "script.pt").items[0].error)
    path = state(tmp_path / "net.pt")
    assert "There are 0, 3, 4, 5" in str(look(tmp_path, path, layers=("conv*",)).items[0].error)
    with pytest.raises(UsageError, match="nothing to read"):
        Models()
    with pytest.raises(ValueError, match="no pattern"):
        parse_patterns(" , ")


@pytest.mark.filterwarnings("ignore")
def test_kinds_of_checkpoints(tmp_path: Path) -> None:
    kernel = torch.quantize_per_tensor(torch.randn(4, 3, 3, 3), 0.05, 0, torch.qint8)
    torch.save(
        {"epoch": 3, "state_dict": {"a.weight": kernel, "b.weight": torch.randn(4, 4, 3, 3).bfloat16()}},
        tmp_path / "c.pt",
    )
    (item,) = look(tmp_path, tmp_path / "c.pt").items
    assert [row["layer"] for row in table(item, "layers")] == ["a", "b"]
    assert any("under 'state_dict'; left out are epoch" in warning for warning in item.warnings)


def test_a_folder_that_lacks_weights(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = vision_folder(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    save_file(dict(list(weights.items())[2:]), model / "model.safetensors", {"format": "pt"})
    (item,) = look(tmp_path, model).items
    assert "lacks" in str(item.error)
    assert "{" not in str(item.error)


def test_layouts() -> None:
    """Grouped, transposed and shared layers are seen as filters of one output each."""
    net = network()
    banks, skipped = banks_of_module(net)
    assert ([tuple(bank.filters.shape) for bank in banks], skipped) == (
        [(8, 3, 5, 5), (8, 1, 3, 3), (6, 8, 1, 1), (4, 6, 2, 2)], (),
    )  # fmt: skip
    transposed: Any = net[5]
    assert torch.equal(banks[3].filters[1], transposed.weight[:, 1])
    assert (banks[1].groups, banks[3].transposed) == (8, True)
    shared = nn.Sequential(net[0], net[0])
    assert len(banks_of_module(shared)[0]) == 1


def test_trust_lines_are_green_for_structure_and_red_for_a_randomised_model() -> None:
    torch.manual_seed(1)
    drawn = [torch.randn(16, 8, 5, 5), torch.randn(24, 16, 3, 3), torch.randn(64, 60, 3, 3)]
    learned = trust_lines([FilterBank(str(n), smooth(w)) for n, w in enumerate(drawn)], seed=0)
    assert len(learned) == 4
    assert all(line.passed for line in learned), learned
    for seed in range(3):
        torch.manual_seed(seed)
        random = [FilterBank(str(n), 0.1 * torch.randn_like(w)) for n, w in enumerate(drawn)]
        assert not any(line.passed for line in trust_lines(random, seed=seed))
    net = network()  # PyTorch's own start: uniform
    assert not any(line.passed for line in trust_lines(banks_of_module(net)[0], seed=0))
    pointwise = trust_lines([FilterBank("a", torch.randn(8, 8, 1, 1))], seed=0)
    assert [line.check.split()[0] for line in pointwise] == ["redundancy", "kurtosis"]


def test_the_report_has_trust_lines(tmp_path: Path) -> None:
    (item,) = look(tmp_path, state(tmp_path / "net.pt")).items
    assert [section for section in item.sections if isinstance(section, Trust)]
    assert all(isinstance(section, Table | Trust) for section in item.sections)


def test_suggestions() -> None:
    separable = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 0, -1])).expand(8, 4, 3, 3).clone()
    separable *= torch.randn(8, 4, 1, 1, generator=torch.Generator().manual_seed(0))
    said = suggestions((3, 3), statistics(separable))
    assert any("3 x 1 and 1 x 3 would take 67% of the weights" in text for text in said)
    central = torch.zeros(6, 2, 7, 7)
    central[:, :, 2:5, 2:5] = torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    assert any("3 x 3 kernels would do (18%)" in text for text in suggestions((7, 7), statistics(central)))
    doubled = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(2))
    doubled[1], doubled[2] = -3 * doubled[0], 0
    said = suggestions((3, 3), statistics(doubled))
    assert any(text.startswith("2 filters say what another") for text in said)
    assert any(text.startswith("1 of 8 filters are next to nothing") for text in said)
    flat = torch.randn(16, 1, 1, 1) * torch.randn(1, 8, 3, 3) + 0.01 * torch.randn(16, 8, 3, 3)
    assert any("effective rank" in text for text in suggestions((3, 3), statistics(flat)))
    assert suggestions((3, 3), statistics(torch.randn(8, 4, 3, 3))) == []
    assert (narrow_field(9.0, 9), narrow_field(float("nan"), 9)) == ("", "")


def test_a_chain_named_as_torchvision_does_is_run(tmp_path: Path) -> None:
    from attn.core.nets.convolutional import vgg

    path = tmp_path / "vgg.pth"
    torch.save(vgg((4, 6), 8, 3, grid=2).state_dict(), path)
    photo(tmp_path / "a.png")
    (item,) = look(tmp_path, path, data=str(tmp_path / "a.png")).items
    assert (item.status, item.metrics["receptive_field"]) == ("ok", 8)
    assert any("AlexNet or VGG" in warning for warning in item.warnings)
    assert table(item, "layers")[0]["output_variance"] > 0
    weights = torch.load(path)
    weights["features.0.weight"][0, 0, 0, 0] = float("nan")
    torch.save(weights, path)
    (item,) = look(tmp_path, path, data=str(tmp_path / "a.png"), placement=Placement(overwrite=True)).items
    assert (item.status, item.metrics["sick_layers"]) == ("ok", 1)
    assert any("not run on pictures" in warning for warning in item.warnings)
