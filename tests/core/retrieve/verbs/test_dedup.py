"""Near duplicates: the rule, checked against the rule written out in float64, and the memory that it takes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from peak import CODE

from attn.core.errors import InputError, UsageError
from attn.core.retrieve.options.find import DedupOptions
from attn.core.retrieve.verbs import dedup as module
from attn.core.retrieve.verbs import owners as engine
from attn.core.retrieve.verbs.dedup import dedup
from attn.core.retrieve.verbs.owners import Sizes, owners


def clusters(n, dim, seed=0, spread=0.3):
    """Unit rows around a few centres, a tenth of them equal to another one."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(2, n // 8), dim))
    x = centres[rng.integers(len(centres), size=n)] + spread * rng.standard_normal((n, dim)) * rng.random((n, 1))
    x[rng.integers(n, size=n // 10)] = x[rng.integers(n, size=n // 10)]
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def kept_for(ids, vectors, threshold):
    """The rule: the first kept entry, in the order of ids, whose cosine is at least the threshold."""
    wide = vectors.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    kept, found = [], {}
    for i in sorted(range(len(ids)), key=ids.__getitem__):
        near = (j for j in kept if np.float32(wide[i] @ wide[j]) >= np.float32(threshold))
        if (owner := next(near, None)) is None:
            kept.append(i)
        else:
            found[ids[i]] = ids[owner]
    return found


def pairs(found):
    return {hit.id: result.query_id for result in found.results for hit in result.hits}


SMALL = Sizes(block=16, kept=8, head=4, sample=20, pairs=7)
"""Blocks, and a bound, so small that tests pass through all of them."""


@pytest.mark.parametrize("many", [0.0, 1.0], ids=["whole products", "bound"])
@pytest.mark.parametrize("threshold", [1e-9, 0.3, 0.8, 0.95, 0.999, 1.0])
def test_owners_follow_the_rule(threshold, many):
    x = clusters(150, 12)
    ids = [f"{i:03d}" for i in np.random.default_rng(3).permutation(150)]
    order = np.argsort(ids)
    (*_, (done, owner)) = owners(x, order, threshold, replace(SMALL, many=many))
    assert done == 150
    found = {ids[order[i]]: ids[order[j]] for i, j in enumerate(owner.tolist()) if i != j}
    assert found == kept_for(ids, x, threshold)
    assert found


@pytest.mark.parametrize("many", [0.0, 1.0], ids=["whole products", "bound"])
@pytest.mark.parametrize("blocks", [16, 64], ids=["against kept", "inside a block"])
def test_a_cosine_is_at_the_threshold_or_below_it_to_the_last_bit(blocks, many):
    sizes = replace(SMALL, many=many, block=blocks)
    rng = np.random.default_rng(2)
    for _ in range(10):
        one, noise = rng.standard_normal((2, 12))
        x = np.stack([one, one + 0.5 * noise]).astype(np.float32)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        wide = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
        cosine = np.float32(wide[0] @ wide[1])
        entries = np.concatenate([x[:1], -np.repeat(x[:1], 30, axis=0), x[1:]])
        for threshold, joins in ((float(cosine), True), (float(np.nextafter(cosine, np.float32(2))), False)):
            (*_, (_, owner)) = owners(entries, np.arange(32), threshold, sizes)
            assert bool(owner[31] == 0) is joins


def test_the_bound_is_used_and_spares_pairs(monkeypatch):
    x = clusters(400, 128, spread=0.05)
    sizes = Sizes(block=64, kept=64, head=60, pairs=16, many=0.5)
    widths, real = [], engine._reach

    def reach(a, b, threshold):
        widths.append(a.shape[1])
        return real(a, b, threshold)

    monkeypatch.setattr(engine, "_reach", reach)
    ids = [f"{i:03d}" for i in range(400)]
    (*_, (_, owner)) = owners(x, np.arange(400), 0.95, sizes)
    assert set(widths) == {61}, "coordinates and the norm of the rest, never the whole vectors"
    assert {ids[i]: ids[j] for i, j in enumerate(owner.tolist()) if i != j} == kept_for(ids, x, 0.95)


@pytest.mark.parametrize("kind", ["flat", "lance", "qdrant"])
def test_groups_are_the_same_in_every_store(made, kind):
    x = clusters(60, 8)
    ids = [f"d/{i:02d}.jpg" for i in range(60)]
    meta = [{"path": f"photos/{name}", "n": i, "kind": "image"} for i, name in enumerate(ids)]
    found = dedup(made(ids, x, meta, kind), DedupOptions(0.9), sizes=SMALL)
    want = kept_for(ids, x, 0.9)
    assert pairs(found) == want
    assert [result.query_id for result in found.results] == sorted(set(want.values()))
    for result in found.results:
        row = x[ids.index(result.query_id)].astype(np.float64)
        assert result.query == f"photos/{result.query_id}"
        for hit in result.hits:
            assert hit.score == pytest.approx(float(x[ids.index(hit.id)].astype(np.float64) @ row), abs=1e-6)
            assert hit.meta["path"] == f"photos/{hit.id}"
    (item,) = found.report.items
    sizes = [len(result.hits) + 1 for result in found.results]
    assert item.metrics == {
        "entries": 60, "kept": 60 - len(want), "groups": len(sizes), "duplicates": len(want),
        "largest_group": max(sizes),
    }  # fmt: skip
    assert item.details["search"] == "exact"
    rows = found.report.to_dict()["summary"]["duplicates"]
    assert {row["duplicate"]: row["kept"] for row in rows} == want
    assert all(row["path"].endswith(row["duplicate"]) and "kind" not in row for row in rows)


def test_chains_do_not_merge_what_is_unlike(made):
    angles = np.radians([0, 15, 30, 45])
    x = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    found = dedup(made(["a", "b", "c", "d"], x), DedupOptions(float(np.cos(np.radians(16)))))
    assert pairs(found) == {"b": "a", "d": "c"}


def test_equal_vectors_have_cosine_one_also_in_float16(made, unit):
    x = np.repeat(unit(20, 33), 2, axis=0)
    ids = [f"{i:02d}" for i in range(40)]
    for name, dtype in (("wide", "float32"), ("half", "float16")):
        found = dedup(made(ids, x, name=name, dtype=dtype), DedupOptions(1.0))
        assert pairs(found) == {ids[i + 1]: ids[i] for i in range(0, 40, 2)}
        assert {hit.score for result in found.results for hit in result.hits} == {1.0}


def test_all_equal_is_one_group(made, unit):
    ids = [f"{i:02d}" for i in range(50)]
    index = made(ids, np.repeat(unit(1), 50, axis=0))
    (result,) = dedup(index, DedupOptions(1.0), sizes=SMALL).results
    assert result.query_id == "00"
    assert [hit.id for hit in result.ranked] == ids[1:]


def test_only_what_fits_is_compared(made, unit):
    index = made(["a", "b", "c"], np.repeat(unit(1), 3, axis=0), [{"n": 1}, {"n": 2}, {"n": 2}])
    assert pairs(dedup(index)) == {"b": "a", "c": "a"}
    found = dedup(index, DedupOptions(where="n = 2"))
    assert pairs(found) == {"c": "b"}
    assert found.report.items[0].metrics["entries"] == 2
    assert dedup(index, DedupOptions(where="n = 3")).results == ()


def test_many_vectors_lie_in_a_file(made, monkeypatch):
    x = clusters(60, 8)
    ids = [f"{i:02d}" for i in range(60)]
    index = made(ids, x)
    mapped = []
    real = module._mapped
    monkeypatch.setattr(module, "_mapped", lambda *args: mapped.append(args) or real(*args))
    assert pairs(dedup(index, DedupOptions(0.9), room_bytes=0)) == kept_for(ids, x, 0.9)
    assert len(mapped) == 1


def test_an_empty_index_and_a_single_entry(made, unit):
    found = dedup(made([], unit(0)))
    assert found.results == ()
    assert found.report.items[0].metrics["entries"] == 0
    assert found.report.exit_code == 0
    assert dedup(made(["a"], unit(1), name="one")).results == ()


@pytest.mark.parametrize("threshold", [0, -0.5, 1.0001, float("nan"), float("inf")])
def test_thresholds_that_make_no_sense(tmp_path, threshold):
    with pytest.raises(UsageError, match=r"^threshold: .* (must be above 0 and at most 1|is no number)"):
        dedup(tmp_path / "absent", DedupOptions(threshold))


def test_missing_index_and_unknown_names(made, unit, tmp_path):
    with pytest.raises(InputError, match="no such index"):
        dedup(tmp_path / "absent")
    with pytest.raises(UsageError, match="no metadata called 'm'"):
        dedup(made(["a"], unit(1), [{"n": 1}]), DedupOptions(where="m = 1"))


def test_progress_ends_with_all(made, unit):
    steps = []

    class Watch:
        def item(self, item, done, total): ...

        def step(self, name, done, total):
            steps.append((done, total))

    dedup(made([str(i) for i in range(40)], unit(40)), watcher=Watch(), sizes=SMALL)
    assert steps == [(16, 40), (32, 40), (40, 40)]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_never_n_by_n_scores():
    """30,000 entries: all scores would be 3.6 GB."""
    code = CODE + (
        "import numpy as np\n"
        "from attn.core.retrieve.verbs.owners import owners\n"
        "import torch\n"
        "x = np.random.default_rng(0).standard_normal((30_000, 8)).astype(np.float32)\n"
        "x /= np.linalg.norm(x, axis=1, keepdims=True)\n"
        "torch.ones(8, 8) @ torch.ones(8, 8)\n"
        "before = peak()\n"
        "for done, owner in owners(x, np.arange(30_000), 0.999): pass\n"
        "print((peak() - before) >> 20)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300
