"""The closed forms against the equations, and that what was held out is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from attn.core.errors import UsageError
from attn.core.options import OptionError
from attn.core.retrieve.data.captions import Captioned
from attn.core.train.image_text_head.fit import Fitting, Pairs, Spectrum, cross_validate, recall
from attn.core.train.image_text_head.options import HeadOptions
from attn.core.train.image_text_head.run import attribution, candidates


def pairs(photos: int = 40, features: int = 30, noise: float = 0.5) -> Pairs:
    """Photos and two or three captions each that have five hidden causes in common."""
    draw = torch.Generator().manual_seed(0)
    causes = torch.randn(photos, 5, generator=draw)
    seen = causes @ torch.randn(5, features, generator=draw) + noise * torch.randn(photos, features, generator=draw)
    owner = np.repeat(np.arange(photos), 2 + np.arange(photos) % 2)
    said = causes[owner] @ torch.randn(5, 384, generator=draw)
    return Pairs(3 * seen + 1, 0.1 * (said + noise * torch.randn(said.shape, generator=draw)) + 0.2, owner)


def sides(some: Pairs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Standardised photos, mean captions and single captions less the mean of the means; float64."""
    features, captions = some.features.double(), some.captions.double()
    means = torch.stack([captions[some.owner == photo].mean(0) for photo in range(len(features))])
    x = (features - features.mean(0)) / features.std(0, correction=0)
    return x, means - means.mean(0), captions - means.mean(0)


def test_ridge_is_the_published_equation() -> None:
    x, y, _ = sides(pairs())
    expected = torch.linalg.solve(x.T @ x + 7.0 * torch.eye(30, dtype=torch.float64), x.T @ y)
    head = Spectrum(pairs()).head(Fitting(7.0))
    assert torch.allclose(head["weight"], expected, atol=1e-10)
    assert "text_weight" not in head


def root(matrix: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.rsqrt()) @ vectors.T


@pytest.mark.parametrize("features", [30, 60])  # fewer and more than there are photos
def test_cca_is_the_singular_vectors_of_what_both_whitened_sides_have_in_common(features: int) -> None:
    some = pairs(features=features)
    x, y, single = sides(some)
    spread = single.T @ single / len(single)
    eye = torch.eye(384, dtype=torch.float64)
    photos = root(x.T @ x + 7.0 * torch.eye(features, dtype=torch.float64))
    texts = root(spread + 0.6 * spread.diagonal().mean() * eye)
    u, s, v = torch.linalg.svd(photos @ x.T @ y @ texts)
    u, v = photos @ u[:, :4] * s[:4], texts @ v[:4].T * s[:4]
    head = Spectrum(some).head(Fitting(7.0, 0.6, 4))
    for mine, expected in ((head["weight"], u), (head["text_weight"], v)):  # the same up to scale, order and signs
        a, b = mine @ mine.T, expected @ expected.T
        assert torch.allclose(a / a.norm(), b / b.norm(), atol=1e-9)
    scores, expected = (x @ head["weight"]) @ (y @ head["text_weight"]).T, (x @ u) @ (y @ v).T
    assert torch.allclose(scores / scores.norm(), expected / expected.norm(), atol=1e-9)


@pytest.mark.parametrize("candidate", [Fitting(3.0), Fitting(3.0, 0.6, 5)])
def test_what_was_held_out_is_found(candidate: Fitting) -> None:
    folds = cross_validate(pairs(), [candidate], 4, seed=0)[candidate]
    assert len(folds) == 4
    assert np.mean([fold["t2i_r@1"] for fold in folds]) > 60  # 10 photos to choose from
    shuffled = pairs()
    shuffled.features[:] = shuffled.features[torch.randperm(40, generator=torch.Generator().manual_seed(1))]
    lost = cross_validate(shuffled, [candidate], 4, seed=0)[candidate]
    assert np.mean([fold["t2i_r@1"] for fold in lost]) < 30


def test_half_precision_finds_the_same() -> None:
    some = pairs(60, features=100)
    head = Spectrum(some).head(Fitting(300.0, 0.6, 16))
    half = {name: value.half().double() for name, value in head.items()}
    assert recall(head, some)["mr"] == pytest.approx(recall(half, some)["mr"], abs=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": (14,)}, "sizes"), ({"blocks": (0,)}, "blocks"), ({"blocks": (13,)}, "blocks"),
        ({"method": "ridge", "dim": 4}, "dim"), ({"method": "ridge", "text_penalty": 1.0}, "text_penalty"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(change: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        HeadOptions(Path("c.jsonl"), Path("o"), **change)


def test_what_is_tried() -> None:
    assert candidates(HeadOptions(Path("c"), Path("o"), penalty=2.0, text_penalty=0.5)) == [Fitting(2.0, 0.5, 128)]
    ridge = candidates(HeadOptions(Path("c"), Path("o"), method="ridge"))
    assert {candidate.text_penalty for candidate in ridge} == {None}
    assert len(ridge) < len(candidates(HeadOptions(Path("c"), Path("o"))))


def test_attribution_is_a_line_for_each_photo() -> None:
    photo = Captioned("a.jpg", ("x",), "a.jpg", licence="CC BY 2.0", source="COCO 1;\thttp://x")
    assert attribution([photo]) == "image\tlicence\tsource\na.jpg\tCC BY 2.0\tCOCO 1; http://x\n"


def test_too_few_photos(tmp_path: Path) -> None:
    from attn.core.train.image_text_head.run import train_head

    (tmp_path / "c.jsonl").write_text('{"image": "a.jpg", "captions": ["x"]}\n')
    with pytest.raises(UsageError, match="1 photos to train on are too few for 5 folds"):
        train_head(HeadOptions(tmp_path / "c.jsonl", tmp_path / "o"))
