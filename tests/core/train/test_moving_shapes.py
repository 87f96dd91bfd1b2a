"""The recipe of the video model: a killed run goes on, its folder loads, videos and tokens are what they are said to
be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attn.core.bundles import Compute
from attn.core.errors import UsageError
from attn.core.fit import loop as trainer
from attn.core.models.files import write_json
from attn.core.models.video import load_video_model, shipped_video_model, write_video_model
from attn.core.nets import video_flow
from attn.core.nets.video_flow import VideoFlow, VideoShape, dense, rotations, stencil, touching, turned
from attn.core.options import OptionError
from attn.core.train.moving_shapes import recipe, run
from attn.core.train.moving_shapes.compare import compared, kinds
from attn.core.train.moving_shapes.drawing import draw_videos
from attn.core.train.moving_shapes.options import MovingShapesOptions
from attn.core.train.moving_shapes.run import train_moving_shapes
from attn.core.train.moving_shapes.sampling import (
    SparseAttention,
    Sparsity,
    ground_alone,
    noise_of,
    psnr,
    sample,
    times,
)
from attn.core.train.moving_shapes.tokens import TokenGrid

SMALL_BLOCKS = Sparsity(tau_p=0.0, block_size=16)


def options(folder: Path, **changes: Any) -> MovingShapesOptions:
    small = MovingShapesOptions(
        folder, width=16, layers=3, heads=2, steps=3, medium_steps=1, large_steps=1, warmup=1, batch=2, judged=1,
        evaluate_every=2, compute=Compute(device="cpu", threads=1),
    )  # fmt: skip
    return replace(small, **changes)


def network(layers: int = 3) -> VideoFlow:
    torch.manual_seed(0)
    net = VideoFlow(VideoShape(16, layers, 2)).eval()
    with torch.no_grad():  # nothing of it is silent
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return net


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_draw", lambda recipe, state, path: None)
    monkeypatch.setattr(recipe, "LARGE", ((2, 4, 4),))
    monkeypatch.setattr(recipe, "MEDIUM", ((2, 4, 2),))
    monkeypatch.setattr(recipe, "SMALL", ((2, 2, 2), (1, 2, 4)))
    for name, value in (("SHOWN", (2, 4, 4)), ("SHOWN_STEPS", 2), ("SHOWN_SEEDS", 1), ("SHOWN_BLOCK", 8)):
        monkeypatch.setattr(run, name, value)
    report = train_moving_shapes(options(tmp_path / "whole"))
    item = report.items[0]
    assert item.status == "ok"
    assert np.isfinite([item.metrics["psnr"], item.metrics["psnr_small"]]).all()
    rows = next(section.rows() for section in report.sections)
    assert [row["attention"] for row in rows] == list(kinds(2, SMALL_BLOCKS))
    assert Path(item.files["videos"]).exists()
    draw, steps = recipe.draw_videos, iter(range(100))

    def until(*given: Any) -> Any:
        if next(steps) == 3 + 8:  # 3 of training, 8 of an evaluation
            raise KeyboardInterrupt
        return draw(*given)

    monkeypatch.setattr(recipe, "draw_videos", until)
    assert train_moving_shapes(options(tmp_path / "stopped")).left
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    monkeypatch.setattr(recipe, "draw_videos", draw)
    train_moving_shapes(options(tmp_path / "stopped"))
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
    assert "never at more" in (tmp_path / "whole" / "model.md").read_text()


def test_stages_follow_each_other(tmp_path: Path) -> None:
    given = options(tmp_path, batch=8)
    stage = recipe.MovingShapesRecipe(given, torch.device("cpu")).stage
    assert [stage(step) for step in (0, 2, 3, 4)] == [
        (recipe.SMALL[0], 8, 1), (recipe.SMALL[2], 8, 1), (recipe.MEDIUM[0], 2, 2), (recipe.LARGE[0], 1, 4),
    ]  # fmt: skip
    assert {int(np.prod(grid)) for grid in recipe.LARGE} == {4096}


def test_shapes_move_and_stay_within() -> None:
    videos = draw_videos(np.random.default_rng(1), 3, (5, 32, 24))
    assert videos.shape == (3, 5, 32, 24, 3)
    assert videos.abs().max() <= 1
    assert torch.equal(videos, draw_videos(np.random.default_rng(1), 3, (5, 32, 24)))
    for video in videos:
        assert len(video.reshape(-1, 3).unique(dim=0)) > 2
        assert not torch.equal(video[0], video[4])
        step = (video[1:] - video[:-1]).abs().amax(-1)
        assert (step > 0.05).float().mean() < 0.5  # shapes alone change, and they go slowly


def test_tokens_are_pieces_of_a_curve_and_back() -> None:
    grid = TokenGrid.of((3, 4, 6), 2)
    video = torch.arange(3 * 8 * 12 * 3, dtype=torch.float32).view(1, 3, 8, 12, 3)
    tokens = grid.tokens(video)
    assert tokens.shape == (1, 72, 12)
    assert torch.equal(grid.videos(tokens), video)
    for token, (frame, row, column) in zip(tokens[0], grid.place.long().tolist(), strict=True):
        piece = video[0, frame, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(token, piece.reshape(-1))
    assert (grid.place.diff(dim=0).abs().amax(1) == 1).all()  # a curve: every token touches the one before


def test_neighbours_of_a_token_by_its_place() -> None:
    grid = TokenGrid.of((2, 3, 4), 2)
    place = grid.place.long()
    found = touching(grid.place)
    size = torch.tensor([2, 3, 4])
    for axis in range(3):
        for which, step in ((2 * axis, -1), (2 * axis + 1, 1)):
            there = place.clone()
            there[:, axis] += step
            assert torch.equal(place[found[which]], there.clamp_min(0).minimum(size - 1))
    x, weight = torch.randn(1, 24, 5), torch.randn(7, 5)
    by_hand = x + weight[0] * x + sum(w * x[:, number] for w, number in zip(weight[1:], found, strict=True))
    assert torch.allclose(stencil(x, weight, found), by_hand, atol=1e-6)


def test_scores_depend_on_distances_alone() -> None:
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def score(at: list[float], there: list[float]) -> float:
        angles = rotations(torch.tensor([at, there]), 16)
        (a, b), (cosine, sine) = (q, k), (angles.cos(), angles.sin())
        return float((turned(a, cosine[:1], sine[:1]) * turned(b, cosine[1:], sine[1:])).sum())

    assert score([1, 2, 3], [4, 0, 5]) == pytest.approx(score([3, 7, 4], [6, 5, 6]), abs=1e-4)
    assert score([1, 2, 3], [4, 0, 5]) != pytest.approx(score([1, 2, 3], [4, 0, 6]), abs=1e-4)


def test_scores_grow_with_the_length_beyond_the_trained_one() -> None:
    focus = video_flow.focus
    assert focus(256) == focus(video_flow.FOCUS_TOKENS) == 1
    assert 1 < focus(4096) < focus(16384) < 3


@torch.no_grad()
def test_the_order_of_tokens_changes_nothing() -> None:
    net, grid = network(), TokenGrid.of((2, 4, 4), 4)
    noisy, time = torch.randn(2, 32, 48), torch.tensor([0.2, 0.7])
    mixed = torch.randperm(32)
    assert torch.allclose(
        net(noisy[:, mixed], grid.place[mixed], time), net(noisy, grid.place, time)[:, mixed], atol=1e-4
    )


def test_where_everything_is_kept_sparse_videos_are_dense_ones() -> None:
    net, grid = network(), TokenGrid.of((2, 4, 8), 4)
    noise = noise_of(0, grid, 3)
    reference = sample(net, noise, grid, 3)
    for gapr in ("on", "off", "all"):
        whole = SparseAttention(Sparsity(gapr, drop_rate=0.0, block_size=16), grid.video)
        assert psnr(sample(net, noise, grid, 3, whole), reference) > 80
        assert whole.pairs == 3 * 3 * 2 * 64**2
    assert psnr(reference, reference) == float("inf")


def test_first_layers_and_steps_are_dense() -> None:
    net, grid = network(layers=4), TokenGrid.of((4, 8, 8), 4)
    noise = noise_of(0, grid, 3)
    sparse = SparseAttention(Sparsity("all", 2, 1, drop_rate=0.9, tau_p=0.0, block_size=16), grid.video)
    sample(net, noise, grid, 3, sparse)
    call = 2 * 256**2
    assert (4 + 2 * 2) * call < sparse.pairs < 3 * 4 * call
    every = SparseAttention(Sparsity("all", dense_steps=3, drop_rate=0.9, block_size=16), grid.video)
    assert torch.equal(sample(net, noise, grid, 3, every), sample(net, noise, grid, 3))
    x = torch.randn(1, 2, 256, 8)
    assert torch.equal(sparse.at(1)(1, x, x, x), dense(0, x, x, x))
    assert not torch.allclose(sparse.at(1)(2, x, x, x), dense(0, x, x, x))


def test_a_table_of_attentions() -> None:
    net = network()
    found = list(compared(net, (4, 4, 8), 4, (0, 1), kinds(4, SMALL_BLOCKS), torch.device("cpu")))
    rows = [row for row, _ in found]
    assert [row["attention"] for row in rows] == list(kinds(4, SMALL_BLOCKS))
    grid = TokenGrid.of((4, 4, 8), 4)
    assert torch.equal(found[0][1], sample(net, noise_of(0, grid, 3), grid, 4))
    assert "psnr" not in rows[0]
    assert rows[0]["psnr_ground"] > 0
    two = torch.tensor([0.5, 0.5, 0.5, -1.0]).view(1, 2, 2, 1, 1)
    assert torch.equal(ground_alone(two), torch.full_like(two, 0.5))
    assert rows[0]["density"] == rows[0]["speedup"] == 1
    for row in rows[1:]:
        assert 0 < row["density"] < 1
        assert row["psnr_least"] <= row["psnr"] <= row["psnr_most"]
    early, late = times(4, 4096), times(4, 256)
    assert early[0] == late[0] == 0
    assert early[-1] == late[-1] == 1
    assert all(a < b for a, b in zip(early[1:-1], late[1:-1], strict=True))


def test_the_model_that_ships_makes_shapes() -> None:
    folder = shipped_video_model()
    assert (folder / "model.safetensors").stat().st_size <= 1_000_000
    net, grid = load_video_model(folder), TokenGrid.of((8, 12, 12), 4)
    video = sample(net, noise_of(0, grid, 3), grid, 8)
    ground = video.flatten(1, 3).median(1).values
    shapes = (video - ground[:, None, None, None]).abs().amax(-1) > 0.3
    assert 0.01 < shapes.float().mean() < 0.4  # drawn videos have about 0.12
    assert (video - ground[:, None, None, None])[~shapes].abs().mean() < 0.1  # and the rest is plain


def test_folders_that_hold_no_video_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"config\.json is missing"):
        load_video_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UsageError, match="no model of videos"):
        load_video_model(tmp_path)
    write_video_model(network(), tmp_path / "model.safetensors")
    assert load_video_model(tmp_path).shape == VideoShape(16, 3, 2)
    write_json(tmp_path / "config.json", {"model_type": "attn_video_flow", "width": 32})
    with pytest.raises(UsageError, match="configuration and weights differ"):
        load_video_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UsageError, match=r"model\.safetensors"):
        load_video_model(tmp_path)


def test_options_that_fit_nothing(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="multiple of four"):
        options(tmp_path, width=18)
    with pytest.raises(OptionError, match="leave nothing"):
        options(tmp_path, warmup=3)
