import math

import numpy as np
import pytest

from attn.core.segment.score import graph as graphs
from attn.core.segment.score.measure import KEYS, fractal_dimension, measure

YY, XX = np.mgrid[0:400, 0:400]


def whole(mask):
    return np.ones(mask.shape, bool)


def taken(mask):
    return measure(mask, whole(mask))


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8, 15])
@pytest.mark.parametrize("turned", [False, True])
def test_bar(width, turned):
    mask = np.zeros((100, 300), bool)
    mask[40 : 40 + width, 20:280] = True
    found = taken(mask.T if turned else mask)
    assert tuple(found) == KEYS
    assert found["mean_calibre_px"] == pytest.approx(width, abs=0.02)
    assert found["vessel_density"] == width * 260 / 30000
    assert 259 - width <= found["skeleton_length_px"] <= 260
    assert (found["segments"], found["end_points"], found["branch_points"]) == (1, 2, 0)
    assert found["tortuosity"] == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("angle", [10, 22.5, 30, 45, 60])
def test_slanting_bar_is_straight(angle):
    turn = math.radians(angle)
    across = np.abs((XX - 200) * math.sin(turn) - (YY - 200) * math.cos(turn))
    along = np.abs((XX - 200) * math.cos(turn) + (YY - 200) * math.sin(turn))
    found = taken((across < 2.5) & (along < 150))
    assert found["tortuosity"] == pytest.approx(1, abs=0.006)  # steps of 1 and √2 give up to 1.08
    assert found["skeleton_length_px"] == pytest.approx(300, rel=0.02)
    assert found["mean_calibre_px"] == pytest.approx(5, rel=0.1)


@pytest.mark.parametrize("half", [45, 90])
def test_arc(half):
    radius, theta = np.hypot(YY - 200, XX - 200), np.degrees(np.arctan2(YY - 200, XX - 200))
    found = taken((np.abs(radius - 150) < 2.5) & (np.abs(theta) < half))
    turn = math.radians(half)
    assert found["tortuosity"] == pytest.approx(turn / math.sin(turn), rel=0.02)
    assert found["skeleton_length_px"] == pytest.approx(2 * turn * 150, rel=0.03)
    assert found["segments"] == 1


def test_ring_is_one_closed_segment():
    found = taken(np.abs(np.hypot(YY - 200, XX - 200) - 100) < 2.5)
    assert found["skeleton_length_px"] == pytest.approx(2 * math.pi * 100, rel=0.01)
    assert (found["segments"], found["end_points"], found["branch_points"], found["tortuosity"]) == (1, 0, 0, 0)


@pytest.mark.parametrize("width", [1, 5, 8])
def test_cross(width):
    mask = np.zeros((301, 301), bool)
    mask[150 : 150 + width] = mask[:, 150 : 150 + width] = True
    found = taken(mask)
    assert (found["branch_points"], found["end_points"], found["segments"]) == (1, 4, 4)
    assert found["tortuosity"] == pytest.approx(1, abs=2e-3)


def test_bumps_on_the_edge_are_no_branches():
    mask = np.zeros((60, 300), bool)
    mask[25:34, 10:290] = True
    for column in range(30, 280, 40):
        mask[22:25, column : column + 2] = True
    found = taken(mask)
    assert (found["branch_points"], found["end_points"], found["segments"]) == (0, 2, 1)
    mask[5:25, 150:154] = True  # this one is a vessel
    found = taken(mask)
    assert (found["branch_points"], found["end_points"], found["segments"]) == (1, 3, 3)


def test_graph_of_a_small_skeleton():
    picture = [
        "#.......#.",
        ".#.....#..",
        "..#####...",
        "..#.......",
        "..#..####.",
        ".....#..#.",
        "#....####.",
    ]
    skeleton = np.array([[letter == "#" for letter in row] for row in picture])
    graph = graphs.build(skeleton)
    assert (graph.branch_points, graph.end_points, len(graph.segments)) == (1, 3, 4)
    loops = [segment for segment in graph.segments if segment.closed]
    assert len(loops) == 1
    assert len(loops[0].points) == 11  # ten pixels, the first once more at the end
    assert graph.weight.sum() == pytest.approx(10 + 6 + 4 * math.sqrt(2), abs=1e-9)


def test_loop_at_a_branch_point_has_no_tortuosity():
    skeleton = np.zeros((60, 60), bool)
    skeleton[10, 10:30] = skeleton[30, 10:30] = True
    skeleton[10:31, 10] = skeleton[10:31, 30] = True
    skeleton[30, 31:55] = True
    found = taken(skeleton)
    assert (found["branch_points"], found["end_points"], found["segments"]) == (1, 1, 2)
    assert found["tortuosity"] == pytest.approx(1, abs=1e-3)  # of the straight tail alone


def test_fractal_dimension_of_line_plane_and_carpet():
    line = np.zeros((512, 512), bool)
    line[200] = True
    assert fractal_dimension(line, whole(line)) == pytest.approx(1, abs=0.01)
    assert fractal_dimension(whole(line), whole(line)) == pytest.approx(2, abs=0.01)
    assert fractal_dimension(np.ones((500, 500), bool), np.ones((500, 500), bool)) == pytest.approx(2, abs=0.03)
    assert fractal_dimension(np.eye(500, dtype=bool), np.ones((500, 500), bool)) == pytest.approx(1, abs=0.02)
    dust = np.ones((1, 1), bool)
    for _ in range(9):  # Cantor's square of ratio 1/2 has three quarters of every box: dimension log 3 / log 2
        dust = np.block([[dust, dust], [dust, np.zeros_like(dust)]])
    assert fractal_dimension(dust, whole(dust)) == pytest.approx(math.log2(3), abs=0.02)


def test_only_the_field_of_view_counts():
    mask = np.zeros((200, 200), bool)
    mask[50:53] = mask[150:153] = True
    fov = np.zeros_like(mask)
    fov[:100, 20:180] = True
    found = measure(mask, fov)
    assert found["vessel_density"] == 3 / 100
    assert found["skeleton_length_px"] == pytest.approx(159, abs=3)
    assert found["segments"] == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (50, 60)])
def test_nothing_to_measure(shape):
    nothing, everything = np.zeros(shape, bool), np.ones(shape, bool)
    zeros = dict.fromkeys(KEYS, 0.0)
    assert measure(nothing, everything) == zeros
    assert measure(nothing, nothing) == zeros
    assert measure(everything, nothing) == zeros
    assert fractal_dimension(everything, nothing) == 0
    assert all(math.isfinite(value) for value in measure(everything, everything).values())
    nothing[0, 0] = True
    found = measure(nothing, everything)
    assert found["mean_calibre_px"] == pytest.approx(1)
    assert (found["skeleton_length_px"], found["segments"], found["tortuosity"]) == (0, 0, 0)


def test_any_mask_gives_finite_measures():
    rng = np.random.default_rng(0)
    for share in (0.05, 0.3, 0.5, 0.8, 0.97):
        mask = rng.random((40, 50)) < share
        found = taken(mask)
        assert all(math.isfinite(value) and value >= 0 for value in found.values()), found
        assert found == taken(mask)


def test_bools_that_are_bytes_of_255():
    mask = np.zeros((40, 60), bool)
    mask[20:23, 5:55] = True
    odd = (mask.astype(np.uint8) * 255).view(bool)  # as NumPy gets them from Pillow's 1-bit images
    assert measure(odd, whole(mask).view(np.uint8) * np.uint8(255)) == taken(mask)
    assert measure(odd, (whole(mask).view(np.uint8) * np.uint8(255)).view(bool)) == taken(mask)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one shape"):
        measure(np.ones((4, 5), bool), np.ones((5, 4), bool))
    with pytest.raises(ValueError, match="one shape"):
        measure(np.ones((1, 4, 5), bool), np.ones((1, 4, 5), bool))


def test_drive_training_labels(data_dir):
    from PIL import Image

    place = data_dir / "fundus" / "DRIVE"
    mask, fov = (np.asarray(Image.open(place / kind / "21.png")).astype(bool) for kind in ("manual", "fov"))
    found = measure(mask, fov)
    assert 0.08 < found["vessel_density"] < 0.16
    assert 2 < found["mean_calibre_px"] < 5
    assert 1.3 < found["fractal_dimension"] < 1.7  # the literature's range for retinal vessels
    assert 1 < found["tortuosity"] < 1.2
    twice = measure(mask.repeat(2, 0).repeat(2, 1), fov.repeat(2, 0).repeat(2, 1))
    assert twice["skeleton_length_px"] == pytest.approx(2 * found["skeleton_length_px"], rel=0.05)
    assert twice["mean_calibre_px"] == pytest.approx(2 * found["mean_calibre_px"], rel=0.1)


@pytest.mark.parametrize("turns", range(4))
def test_a_spur_goes_and_its_branch_point_stays(turns):
    bar = np.zeros((41, 41), bool)
    bar[20, 2:39] = True
    spurred = bar.copy()
    spurred[15:20, 20] = True
    turned = np.rot90(spurred, turns).copy()
    graph = graphs.build(turned)
    assert len(graph.segments) == 3
    kept = graphs.prune(turned, graph, np.full(len(graph.points), 8.0))
    assert np.array_equal(kept, np.rot90(bar, turns))
    assert np.array_equal(graphs.prune(turned, graph, np.full(len(graph.points), 2.0)), turned)  # longer than wide


def test_an_end_beside_a_branch_point_is_one_segment():
    cross = np.zeros((21, 21), bool)
    cross[10, 3:18] = True
    cross[9, 10] = True
    assert len(graphs.build(cross).segments) == len(
        {tuple(sorted(s.index[[0, -1]])) for s in graphs.build(cross).segments}
    )


def test_fractal_dimension_counts_boxes_up_to_a_quarter_of_the_side():
    rng = np.random.default_rng(3)
    mask = rng.random((32, 32)) < 0.02
    y, x = np.nonzero(mask)
    counts = []
    for side in (2, 4, 8):
        shifts = [(down, across) for down in (0, side // 2) for across in (0, side // 2)]
        counts.append(
            min(len({((a + d) // side, (b + e) // side) for a, b in zip(y, x, strict=True)}) for d, e in shifts)
        )
    slope = -np.polyfit(np.log([2, 4, 8]), np.log(counts), 1)[0]
    assert fractal_dimension(mask, whole(mask)) == pytest.approx(slope)
