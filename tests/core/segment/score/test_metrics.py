import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attn.core.segment.score.agreement import Confusion, area, sorted_auc
from attn.core.segment.score.metrics import best_threshold, center_pad, fsg_scores, pooled, roc_auc, scores

KEYS = {"f1", "miou", "sensitivity", "specificity", "accuracy", "auc", "mcc", "cldice"}


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def drawn(seed, shape=(40, 50), levels=255):
    """A probability of few levels, so with ties, and a truth it agrees with in part."""
    generator = np.random.default_rng(seed)
    truth = generator.random(shape) < 0.2
    prob = np.clip(0.35 * truth + 0.25 + 0.2 * generator.standard_normal(shape), 0, 1)
    fov = generator.random(shape) < 0.8
    return (np.rint(prob * levels) / levels).astype(np.float32), truth, fov


def counted(prob, truth, fov, threshold):
    """tp, fp, fn, tn one pixel at a time."""
    table = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
    for p, t, inside in zip(prob.ravel().tolist(), truth.ravel().tolist(), fov.ravel().tolist(), strict=True):
        if inside:
            table[p >= threshold, t] += 1
    return table[True, True], table[True, False], table[False, True], table[False, False]


def test_equals_the_definitions_pixel_by_pixel():
    prob, truth, fov = drawn(1)
    tp, fp, fn, tn = counted(prob, truth, fov, 0.45)
    found = scores(prob, truth, fov, threshold=0.45)
    assert set(found) == KEYS
    assert all(type(value) is float for value in found.values())
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert found["miou"] == pytest.approx((tp / (tp + fp + fn) + tn / (tn + fp + fn)) / 2)
    assert found["sensitivity"] == pytest.approx(tp / (tp + fn))
    assert found["specificity"] == pytest.approx(tn / (tn + fp))
    assert found["accuracy"] == pytest.approx((tp + tn) / (tp + fp + fn + tn))
    predicted = (prob >= 0.45)[fov]
    assert found["mcc"] == pytest.approx(np.corrcoef(predicted, truth[fov])[0, 1])


@pytest.mark.parametrize("levels", [1, 4, 255, 10**6])
def test_area_counts_pairs_and_halves_ties(levels):
    prob, truth, fov = drawn(2, (12, 15), levels)
    yes, no = prob[truth & fov][:, None].astype(float), prob[~truth & fov][None].astype(float)
    assert scores(prob, truth, fov, threshold=0.5)["auc"] == pytest.approx(np.mean((yes > no) + 0.5 * (yes == no)))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40))
def test_area_of_any_few_pixels(pixels):
    value, truth = np.array([p for p, _ in pixels]) / 5, np.array([t for _, t in pixels])
    found = roc_auc(value, truth)
    if truth.all() or not truth.any():
        assert np.isnan(found)
    else:
        yes, no = value[truth][:, None], value[~truth][None]
        assert found == pytest.approx(np.mean((yes > no) + 0.5 * (yes == no)))
        assert roc_auc(-value, truth) == pytest.approx(1 - found)


def test_large_area_crosses_chunks():
    prob, truth, _ = drawn(3)
    yes, no = prob[truth][:, None], prob[~truth][None]
    exact = pytest.approx(np.mean((yes > no) + 0.5 * (yes == no)))
    assert roc_auc(prob, truth) == area([prob[truth]], [prob[~truth]], chunk=7) == exact


def test_outside_the_field_of_view_nothing_counts():
    prob, truth, fov = drawn(4)
    other = np.where(fov, prob, 1 - prob), np.where(fov, truth, ~truth), fov
    assert scores(*other, threshold=0.4) == scores(prob, truth, fov, threshold=0.4)


def test_images_together_each_at_its_own_threshold():
    images = [drawn(1), drawn(2)]
    tp, fp, fn, tn = np.sum([counted(*image, t) for image, t in zip(images, (0.3, 0.6), strict=True)], axis=0)
    found = pooled(images, [0.3, 0.6])
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert found["specificity"] == pytest.approx(tn / (tn + fp))
    frames = [image[:2] for image in images]
    alone = [fsg_scores([frame], t)["f1"] for frame, t in zip(frames, (0.3, 0.6), strict=True)]
    assert fsg_scores(frames, [0.3, 0.6])["f1"] == pytest.approx(np.mean(alone))
    with pytest.raises(ValueError, match="zip"):
        pooled(images, [0.5])


def test_threshold_is_inclusive_and_in_the_precision_of_the_map():
    prob = np.array([[0.2, 0.7]], np.float32)  # float32(0.7) < 0.7
    found = scores(prob, np.array([[False, True]]), np.ones((1, 2), bool), threshold=0.7)
    assert found["f1"] == 1


def test_pooled_counts_all_pixels_together():
    images = [drawn(5, (30, 30)), drawn(6, (10, 60))]
    together = tuple(np.concatenate([image[part].ravel() for image in images])[None] for part in range(3))
    one, many = scores(*together, threshold=0.4), pooled(images, threshold=0.4)
    assert set(many) == KEYS
    for key in KEYS - {"cldice"}:  # centre lines have a shape
        assert many[key] == pytest.approx(one[key])
    blank = np.zeros((9, 9), np.float32), np.zeros((9, 9), bool), np.ones((9, 9), bool)
    assert pooled([images[0], blank], 0.4)["cldice"] == pytest.approx(scores(*images[0], threshold=0.4)["cldice"])


def test_cldice_sees_centre_lines_not_width():
    truth, whole = np.zeros((40, 80), bool), np.ones((40, 80), bool)
    truth[15:24, 5:75] = True
    thin, half = np.zeros((40, 80), np.float32), truth.astype(np.float32)
    thin[19, 5:75] = 1
    half[:, 40:] = 0
    assert scores(thin, truth, whole, threshold=0.5)["cldice"] > 0.9
    assert scores(thin, truth, whole, threshold=0.5)["f1"] < 0.3
    # all of the half's line is true, half of the true line is found: 2 * 1 * 0.5 / 1.5
    assert scores(half, truth, whole, threshold=0.5)["cldice"] == pytest.approx(2 / 3, abs=0.03)


def test_nothing_to_compare_with():
    empty, whole = np.zeros((20, 20), bool), np.ones((20, 20), bool)
    zero, one = np.zeros((20, 20), np.float32), np.ones((20, 20), np.float32)
    agreed = scores(zero, empty, whole, threshold=0.5)
    assert agreed == {"f1": 1, "miou": 1, "specificity": 1, "accuracy": 1, "mcc": 0, "cldice": 1}
    invented = scores(one, empty, whole, threshold=0.5)
    assert invented == {"f1": 0, "miou": 0, "specificity": 0, "accuracy": 0, "mcc": 0, "cldice": 0}
    truth = empty.copy()
    truth[5, 2:18] = True
    missed = scores(zero, truth, whole, threshold=0.5)
    assert set(missed) == KEYS
    assert (missed["f1"], missed["sensitivity"], missed["mcc"], missed["cldice"]) == (0, 0, 0, 0)
    assert missed["auc"] == 0.5
    full = scores(one, whole, whole, threshold=0.5)
    assert (full["f1"], full["miou"], full["sensitivity"]) == (1, 1, 1)
    assert not {"auc", "specificity"} & set(full)


def test_no_pixel_has_no_score():
    prob, truth, fov = drawn(7)
    assert scores(prob, truth, np.zeros_like(fov), threshold=0.5) == {}
    assert scores(prob[:0], truth[:0], fov[:0], threshold=0.5) == {}
    assert pooled([], threshold=0.5) == {}
    assert fsg_scores([]) == {}
    none = prob, truth, np.zeros_like(fov)
    assert pooled([none, (prob, truth, fov)], 0.5) == scores(prob, truth, fov, threshold=0.5)


def test_masks_of_other_bytes_are_masks():
    """Pillow's 1-bit images come as bools that are bytes of 255."""
    prob, truth, fov = drawn(8)
    bytes_of_255 = tuple((mask * np.uint8(255)).view(bool) for mask in (truth, fov))
    assert scores(prob, *bytes_of_255, threshold=0.4) == scores(prob, truth, fov, threshold=0.4)
    assert fsg_scores([(prob, truth.astype(np.int64))]) == fsg_scores([(prob, truth)])


def test_inputs_stay_as_they_are():
    images = drawn(9)
    before = [part.copy() for part in images]
    pooled([images], threshold=0.4)
    best_threshold([images])
    fsg_scores([images[:2]])
    assert all(np.array_equal(a, b) for a, b in zip(before, images, strict=True))


def test_what_does_not_fit_is_refused():
    prob, truth, fov = drawn(10)
    with pytest.raises(ValueError, match="one shape"):
        scores(prob, truth[1:], fov, threshold=0.5)
    with pytest.raises(ValueError, match="one shape"):
        scores(prob[0], truth[0], fov[0], threshold=0.5)
    with pytest.raises(ValueError, match="one shape"):
        fsg_scores([(prob, truth.T)])
    broken = prob.copy()
    broken[3, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        scores(broken, truth, fov, threshold=0.5)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        best_threshold([(prob * 2, truth, fov)])
    with pytest.raises(ValueError, match="no pixel"):
        best_threshold([(prob, truth, np.zeros_like(fov))])


def mean_f1(images, threshold):
    return np.mean([scores(*image, threshold=threshold)["f1"] for image in images])


def test_best_threshold_is_no_worse_than_any_other():
    images = [drawn(seed, (25, 20)) for seed in (11, 12, 13)]
    best = best_threshold(images)
    others = [mean_f1(images, level / 255) for level in range(1, 256)]
    assert mean_f1(images, best) == pytest.approx(max(others), abs=1e-12)
    assert mean_f1(images, best) > min(others) + 0.1


def test_best_threshold_is_of_the_mean_not_of_the_pooled_pixels():
    """A large image that wants 0.8 does not outvote two small ones that want 0.3."""
    truth = np.zeros((100, 100), bool)
    truth[:20] = True
    large = np.where(truth, 0.9, 0.7).astype(np.float32)
    small = np.where(truth, 0.4, 0.2).astype(np.float32)[10:30, :20]
    images = [(large, truth, np.ones_like(truth))] + 2 * [(small, truth[10:30, :20], np.ones(small.shape, bool))]
    assert 0.2 < best_threshold(images) <= 0.4


def test_best_threshold_lies_in_the_middle_of_its_stretch():
    truth, whole = np.eye(10, dtype=bool), np.ones((10, 10), bool)
    assert best_threshold([(truth.astype(np.float32), truth, whole)]) == pytest.approx(0.5, abs=1e-4)
    apart = np.where(truth, 0.6, 0.2).astype(np.float32)
    assert best_threshold([(apart, truth, whole)]) == pytest.approx(0.4, abs=1e-4)
    assert 0 < best_threshold([(np.ones((10, 10), np.float32), ~whole, whole)]) < 1


def test_best_threshold_passes_over_empty_fields():
    image = drawn(14)
    empty = (image[0], ~image[1], np.zeros_like(image[2]))
    assert best_threshold([empty, image]) == best_threshold([image])


@pytest.mark.parametrize(("shape", "square"), [((584, 565), 608), ((605, 700), 704), ((960, 999), 1024)])
def test_official_squares(shape, square):
    truth = np.zeros(shape, bool)
    truth[100:110, 50:500] = True
    prob = np.where(truth, 0.9, 0.1).astype(np.float32)
    prob[:4] = 0.8
    found = fsg_scores([(prob, truth)])
    wrong = 4 * shape[1]
    assert found["accuracy"] == found["accuracy_pooled"] == pytest.approx(1 - wrong / square**2)
    assert found["f1"] == pytest.approx(2 * 4500 / (2 * 4500 + wrong))
    assert "auc_sorted_official" not in found


def test_means_over_images_and_pooled_iou():
    images = [drawn(15, (30, 30)), drawn(16, (20, 44))]
    ones = [fsg_scores([image[:2]], square=64, threshold=0.4) for image in images]
    both = fsg_scores([image[:2] for image in images], square=64, threshold=0.4)
    for key in ("f1", "accuracy", "sensitivity", "mcc", "iou", "auc"):
        assert both[key] == pytest.approx((ones[0][key] + ones[1][key]) / 2)
    assert both["miou"] != pytest.approx((ones[0]["miou"] + ones[1]["miou"]) / 2, abs=1e-9)
    assert both["miou"] == pytest.approx((both["iou_background"] + both["iou_vessel"]) / 2)


@pytest.mark.parametrize("threshold", [0.2, 0.45, 0.6])
def test_sorted_area_is_that_of_the_sorted_values(threshold):
    prob, truth, _ = drawn(17)
    found = fsg_scores([(prob, truth)], square=None, threshold=threshold, official_auc=True)
    predicted = np.sort((prob >= threshold).ravel()).astype(float)
    assert found["auc_sorted_official"] == pytest.approx(roc_auc(predicted, np.sort(truth.ravel())))


def test_a_mean_leaves_out_images_where_it_is_undefined():
    prob, truth, _ = drawn(18)
    blank = np.zeros_like(prob), np.zeros_like(truth)
    found = fsg_scores([(prob, truth), blank], square=None)
    alone = fsg_scores([(prob, truth)], square=None)
    assert found["sensitivity"] == alone["sensitivity"]
    assert found["auc"] == alone["auc"]
    assert found["f1"] == pytest.approx((alone["f1"] + 1) / 2)


def test_center_pad_sizes():
    x = np.arange(12, dtype=np.uint8).reshape(3, 4)
    padded = center_pad(x, 7)
    assert padded.dtype == np.uint8
    assert np.array_equal(padded[2:5, 1:5], x)
    assert padded.sum() == x.sum()
    assert np.array_equal(center_pad(x, (3, 4)), x)
    with pytest.raises(ValueError, match="not larger"):
        center_pad(x, 3)
    with pytest.raises(ValueError, match="not larger"):
        fsg_scores([(np.zeros((9, 9)), np.zeros((9, 9), bool))], square=8)


def test_no_area_without_both_classes():
    some = np.array([0.2, 0.7])
    assert np.isnan([area([], [some]), area([some], []), area([], [])]).all()
    assert np.isnan(sorted_auc(Confusion(0, 2, 0, 3)))  # no vessel
    assert np.isnan(sorted_auc(Confusion(2, 0, 1, 0)))  # nothing else
    assert area([some], [some]) == 0.5


def test_an_image_without_vessels_counts_as_one_where_nothing_is_found():
    """Only then: below 0.6 something is found in it, above 0.5 nothing in the other. Both are worth the same."""
    field = np.ones((1, 2), bool)
    empty = np.array([[0.6, 0.0]]), np.zeros((1, 2), bool), field
    vessel = np.array([[0.5, 0.1]]), np.array([[True, False]]), field
    assert best_threshold([empty, vessel]) == pytest.approx(0.3, abs=1e-4)
    assert best_threshold([empty, vessel, vessel]) == pytest.approx(0.3, abs=1e-4)
    assert best_threshold([empty, empty, vessel]) == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize(("side", "square"), [(584, 608), (700, 704), (999, 1024), (1344, 1344), (1345, 1376)])
def test_squares_of_the_official_code(side, square):
    """A frame padded to its square has that many pixels; all of the padding is right."""
    frame = np.zeros((1, side), np.float32)
    wrong = np.ones_like(frame, dtype=bool)
    found = fsg_scores([(frame, wrong)], threshold=0.5, official_auc=False)
    assert found["accuracy_pooled"] == pytest.approx(1 - side / square**2, abs=1e-12)
