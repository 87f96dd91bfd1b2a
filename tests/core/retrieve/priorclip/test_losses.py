import math

import pytest
import torch
import torch.nn.functional as F

from attn.core.retrieve.priorclip.losses import TAU_RANGE, Temperature, affiliation, class_means, contrastive, triplet


def pairs(n=8, d=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(F.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))


def test_distinct_ids_are_the_plain_form():
    image, text = pairs()
    assert torch.equal(contrastive(image, text, 0.07, torch.arange(8)), contrastive(image, text, 0.07))


def test_contrastive_floor_is_the_logarithm_of_the_captions_of_an_image():
    basis = torch.eye(4, dtype=torch.float64)[[0, 0, 1, 2]]
    ids = torch.tensor([0, 0, 1, 2])
    assert contrastive(basis, basis, 0.01, ids).item() == pytest.approx(2 * math.log(2) / 4)
    assert contrastive(basis, basis, 0.01).item() == pytest.approx(2 * math.log(2) / 4)  # unknown, so the same floor


def test_class_means_are_those_of_a_loop_over_samples():
    image, _ = pairs()
    labels = torch.tensor([3, 1, 3, 9, 1, 3, 0, 9])
    means, row = class_means(image, labels)
    looped = torch.stack([image[labels == label].mean(0) for label in labels])
    torch.testing.assert_close(means[row], looped)
    assert len(means) == 4


@pytest.mark.parametrize(("targets", "floor"), [("diagonal", (3 * math.log(3) + 2 * math.log(2)) / 6), ("class", 0.0)])
def test_affiliation_floor(targets, floor):
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    perfect = torch.eye(3, dtype=torch.float64)[labels]
    assert affiliation(perfect, perfect, labels, 0.01, targets=targets).item() == pytest.approx(floor, abs=1e-12)


def test_spreading_the_target_over_a_class_is_the_diagonal():
    """Why the class targets have one column per class and not a spread target, as the specification words it."""
    image, text = pairs()
    labels = torch.tensor([3, 1, 3, 9, 1, 3, 0, 9])
    target = (labels[:, None] == labels).double()
    target /= target.sum(1, keepdim=True)
    halves = []
    for item, other in ((image, text), (text, image)):
        means, row = class_means(other, labels)
        halves.append(F.cross_entropy(item @ means[row].T / 0.07, target))
    torch.testing.assert_close(sum(halves) / 2, affiliation(image, text, labels, 0.07))


def test_forms_differ_and_gradients_reach_both_sides():
    image, text = (x.requires_grad_() for x in pairs())
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2])
    one, other = (affiliation(image, text, labels, form=form) for form in ("priorclip", "pir"))
    assert abs(one.item() - other.item()) > 1e-4
    one.backward()
    assert image.grad.abs().sum() > 0
    assert text.grad.abs().sum() > 0


def test_triplet_against_a_loop():
    image, text = pairs(5)
    scores = image @ text.T
    cost = [[max(0.0, 0.2 + (scores[i, j] - scores[i, i]).item()) for j in range(5) if j != i] for i in range(5)]
    back = [[max(0.0, 0.2 + (scores[i, j] - scores[j, j]).item()) for i in range(5) if i != j] for j in range(5)]
    assert triplet(image, text).item() == pytest.approx(sum(map(sum, cost)) + sum(map(sum, back)))
    assert triplet(image, text, hardest=True).item() == pytest.approx(sum(map(max, cost)) + sum(map(max, back)))
    assert triplet(image[:1], text[:1]).item() == 0


@pytest.mark.parametrize("start", [-1.0, 0.0, 7.0])
def test_temperature_comes_back_and_can_move(start):
    tau = Temperature(start)
    value = tau()
    assert TAU_RANGE[0] - 1e-6 <= value.item() <= TAU_RANGE[1] + 1e-6
    value.square().backward()
    assert tau.value.grad.item() != 0


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda i, t: contrastive(i, t[:3]), "must be equal"),
        (lambda i, t: contrastive(i[:0], t[:0]), "B >= 1"),
        (lambda i, t: contrastive(i, t, 0.07, torch.arange(3)), r"must be \[8\]"),
        (lambda i, t: affiliation(i, t, torch.zeros(2, dtype=torch.long)), r"must be \[8\]"),
        (lambda i, t: affiliation(i, t, torch.zeros(8, dtype=torch.long), targets="spread"), "spread"),
        (lambda i, t: affiliation(i, t, torch.zeros(8, dtype=torch.long), form="pir", targets="class"), "one column"),
        (lambda i, t: triplet(i[0], t[0]), "must be equal"),
    ],
)
def test_what_does_not_fit_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call(*pairs())
