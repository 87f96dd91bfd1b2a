"""What every back end does alike: the same tests over flat, Lance and Qdrant (its client's local mode)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from attn.core.errors import UsageError
from attn.core.retrieve.store import SCHEMA, Hit
from attn.core.retrieve.store.where import parse, selects

META = [
    {"width": 640, "lang": "en", "ok": True, "ratio": 1.5},
    {"width": 800, "lang": "de", "ok": False, "ratio": 0.5},
    {"width": 1024, "lang": None, "ratio": 2.0},
    {"width": 800.5, "lang": "it's\nüber_%\\"},
    {"width": "wide", "lang": "EN", "ok": True, "id2": 1},
    {"lang": 5, "width": True},
    {},
    {"a.b": 1, 'odd "name"`': "x", "meta": "m", "vector": 3, "_x": "y", "Width": 1},
]
IDS = [f"dir/{i}.png" for i in range(len(META))]


def expected(ids, vectors, queries, k):
    """The truth: float64 scores rounded to float32, ties by id."""
    scores = (queries.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    return [
        [(ids[j], float(row[j])) for j in sorted(range(len(ids)), key=lambda j: (-row[j], ids[j]))[:k]]
        for row in scores
    ]


def pairs(results):
    return [[(hit.id, hit.score) for hit in hits] for hits in results]


def test_search_gives_the_nearest_with_scores_and_metadata(store, unit):
    vectors, queries = unit(8), unit(3)
    store.add(IDS, vectors, META)
    for exact in (False, True):
        results = store.search(queries, 4, exact=exact)
        for got, want in zip(pairs(results), expected(IDS, vectors, queries, 4), strict=True):
            assert [name for name, _ in got] == [name for name, _ in want]
            np.testing.assert_allclose([s for _, s in got], [s for _, s in want], atol=2e-7)
    hit = results[0][0]
    assert isinstance(hit, Hit)
    assert hit.meta == META[IDS.index(hit.id)]
    assert isinstance(hit.score, float)


def test_what_was_stored_is_there_after_opening_again(place, unit):
    store, vectors = place.create(), unit(8)
    store.add(IDS, vectors, META)
    again = place.open()
    assert again.header == store.header
    assert (again.header.dim, again.header.metric, again.header.schema) == (8, "cosine", SCHEMA)
    assert again.header.fingerprint["model"] == "tiny"
    assert again.header.created
    assert again.header.attn
    assert len(again) == 8
    entries = again.entries()
    assert entries == dict(zip(IDS, META, strict=True))
    assert type(entries[IDS[0]]["width"]) is int
    assert type(entries[IDS[0]]["ok"]) is bool
    assert again.search(vectors[2:3], 1)[0][0].id == IDS[2]


def test_upsert_replaces_and_the_last_of_a_batch_wins(store, unit):
    vectors = unit(4)
    store.add(["a", "b"], vectors[:2], [{"v": 1}, {"v": 1}])
    store.add(["b", "c", "b"], vectors[1:], [{"v": 2}, {"v": 2}, {"v": 3}])
    assert store.entries() == {"a": {"v": 1}, "b": {"v": 3}, "c": {"v": 2}}
    assert len(store) == 3
    best = store.search(vectors[3:], 3)[0]
    assert best[0].id == "b"
    assert best[0].score == pytest.approx(1, abs=1e-6)
    assert sorted(hit.id for hit in best) == ["a", "b", "c"]


def test_strict_stores_nothing_where_an_id_is_known(store, unit):
    store.add(["a"], unit(1), [{}], "strict")
    with pytest.raises(UsageError, match="'a' is in the store already"):
        store.add(["b", "a"], unit(2), [{}, {}], "strict")
    with pytest.raises(UsageError, match="'c' is given twice"):
        store.add(["c", "c"], unit(2), [{}, {}], "strict")
    assert set(store.entries()) == {"a"}


def test_delete_forgets_and_counts(store, unit):
    vectors = unit(3)
    store.add(["a", "it's", "c"], vectors, [{}] * 3)
    assert store.delete(["it's", "it's", "nothing"]) == 1
    assert store.delete([]) == 0
    assert set(store.entries()) == {"a", "c"}
    assert "it's" not in [hit.id for hit in store.search(vectors[1:2], 3)[0]]
    store.add(["it's"], vectors[1:2], [{}])
    assert store.search(vectors[1:2], 1)[0][0].id == "it's"


def test_empty_store(store, unit):
    assert len(store) == 0
    assert store.entries() == {}
    assert store.search(unit(2), 5) == [[], []]
    assert store.search(unit(1), 5, where="width > 3") == [[]]
    assert store.delete(["a"]) == 0
    store.add([], unit(0), [])
    assert store.compact()["items"] == 0
    assert store.stats()["items"] == 0


def test_k_larger_than_n_and_no_queries(store, unit):
    store.add(["b", "a"], unit(2), [{}, {}])
    assert len(store.search(unit(1), 1000)[0]) == 2
    assert store.search(unit(0), 3) == []
    with pytest.raises(UsageError, match="at least 1"):
        store.search(unit(1), 0)


def test_ties_are_ordered_by_id_even_at_the_cut(store, unit):
    one, other = unit(2)
    ids = [f"{i:03d}" for i in range(60)]
    shuffled = np.random.default_rng(1).permutation(60)
    vectors = np.stack([other if i == 7 else one for i in shuffled])
    store.add([ids[i] for i in shuffled], vectors, [{}] * 60)
    hits = store.search(one[None], 10, exact=True)[0]
    assert [hit.id for hit in hits] == [name for name in ids if name != "007"][:10]
    assert len({hit.score for hit in hits}) == 1


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((2, 7), np.float32) / np.sqrt(7), "holds vectors of 8"),
        (np.full((2, 8), np.nan, np.float32), "row 0 is not a unit vector"),
        (np.array([[1] + [0] * 7, [np.inf] + [0] * 7], np.float32), "row 1 is not a unit vector"),
        (np.zeros((2, 8), np.float32), "not a unit vector"),
        (np.ones((2, 8), np.float32), "not a unit vector"),
    ],
    ids=["dim", "nan", "inf", "zero", "length"],
)
def test_bad_vectors_are_refused(store, vectors, message):
    with pytest.raises(UsageError, match=message):
        store.add(["a", "b"], vectors, [{}, {}])
    with pytest.raises(UsageError, match=message):
        store.search(vectors, 1)
    assert len(store) == 0


@pytest.mark.parametrize(
    ("ids", "meta", "message"),
    [
        (["a"], [{}, {}], "numbers must agree"),
        (["a", ""], [{}, {}], "id is empty"),
        (["a", "\udcff"], [{}, {}], "not valid Unicode"),
        (["a", "b"], [{}, {"x": "\udcff"}], "not valid Unicode"),
        (["a", "b"], [{}, {"x": [1]}], "b: metadata 'x' is of type list"),
        (["a", "b"], [{}, {"x": float("nan")}], "must be finite"),
        (["a", "b"], [{}, {"x": 2**63}], "64 bits"),
        (["a", "b"], [{}, {"id": "x"}], "cannot be called 'id'"),
        (["a", 3], [{}, {}], "not text"),
    ],
)
def test_bad_items_are_refused(store, unit, ids, meta, message):
    with pytest.raises(UsageError, match=message):
        store.add(ids, unit(2), meta)
    assert len(store) == 0


FILTERS = [
    "width = 800",
    "width <> 800",
    "width >= 800.5",
    "width > 640 AND width <= 1024",
    "width IN (640, 1024)",
    "width NOT IN (640.0, 800.5)",
    "width = 'wide'",
    "width <> 'wide'",
    "width = TRUE",
    "width != true",
    "width IS NULL",
    "NOT (width IS NULL OR lang IS NULL)",
    "lang = 'en' OR ok = FALSE",
    "NOT (lang = 'en' OR width = 640)",
    "lang IN ('en', 'de') AND NOT ok = TRUE",
    "lang NOT IN ('en')",
    "lang = 'it''s\nüber_%\\'",
    "ratio BETWEEN 0.5 AND 1.5",
    "ratio NOT BETWEEN 0.5 AND 1.5",
    "id = 'dir/3.png'",
    "id IN ('dir/3.png', 'dir/4.png') AND lang IS NOT NULL",
    '"a.b" = 1 AND "odd ""name""`" = \'x\'',
    "meta = 'm' AND vector = 3 AND _x = 'y'",
    "Width = 1",
    "500 < width",
    "ratio < 1e-7",
]
SQL_FILTERS = [
    "lang < 'en'",
    "lang >= 'EN'",
    "lang LIKE 'e_'",
    "lang LIKE '%\\%\\\\'",
    "lang NOT LIKE '%über%'",
    "lang LIKE 'it%s%über\\_%'",
    "id LIKE 'dir/_.png' AND id > 'dir/3.png'",
    "width > ratio",
    "width <> Width",
    "ok < TRUE",
]


@pytest.mark.parametrize("exact", [False, True])
def test_filters_select_the_same_items_everywhere(store, unit, exact):
    store.add(IDS[:2], unit(2), META[:2])  # in two steps: later items bring new names and types
    store.add(IDS[2:], unit(6), META[2:])
    can_sql = store.header.store != "qdrant"
    selected = set()
    for text in FILTERS + SQL_FILTERS * can_sql:
        test = selects(parse(text))
        want = {name for name, meta in zip(IDS, META, strict=True) if test(name, meta)}
        assert {hit.id for hit in store.search(unit(1), 8, where=text, exact=exact)[0]} == want, text
        selected |= want
    assert selected == set(IDS), "every item is selected by some filter, or it tests nothing"
    if not can_sql:
        for text in SQL_FILTERS:
            with pytest.raises(UsageError, match="Qdrant"):
                store.search(unit(1), 8, where=text)


def test_filters_come_before_the_cut(store, unit):
    vectors = unit(200)
    store.add([f"{i:03d}" for i in range(200)], vectors, [{"n": i} for i in range(200)])
    hits = store.search(vectors[:1], 5, where="n >= 190")[0]
    assert len(hits) == 5
    assert pairs([hits])[0] == sorted(pairs([hits])[0], key=lambda hit: -hit[1])
    assert all(int(hit.id) >= 190 for hit in hits)


def test_unknown_names_are_told_with_the_known_ones(store, unit):
    store.add(["a"], unit(1), [{"width": 3, "lang": "en"}])
    with pytest.raises(UsageError, match=r"no metadata called 'widht'\. Did you mean width\? Known: id, lang, width"):
        store.search(unit(1), 1, where="widht > 3")


def test_compaction_changes_nothing_that_counts(place, unit):
    store, vectors, queries = place.create(), unit(90), unit(4)
    ids = [f"{i:02d}" for i in range(90)]
    for start in range(0, 90, 10):
        rows = slice(start, start + 10)
        store.add(ids[rows], vectors[rows], [{"n": i} for i in range(start, start + 10)])
    gone = [name for name in ids if int(name) % 3 == 0]
    assert store.delete(gone) == 30
    before = store.search(queries, 7)
    entries = store.entries()
    assert store.compact()["items"] == 60
    assert store.search(queries, 7) == before
    again = place.open()
    assert again.search(queries, 7) == before
    assert again.entries() == entries


def test_batch_of_queries_equals_single_ones(store, unit):
    vectors, queries = unit(300), unit(150)
    store.add([f"{i:03d}" for i in range(300)], vectors, [{}] * 300)
    together = store.search(queries, 3)
    alone = list(itertools.chain.from_iterable(store.search(query[None], 3) for query in queries[:5]))
    assert together[:5] == alone
    assert len(together) == 150


@pytest.mark.parametrize("size", [3, 4_096])
def test_blocks_give_every_item_once_with_its_vector_and_metadata(store, unit, size):
    vectors = unit(8)
    store.add(IDS[:5], vectors[:5], META[:5])
    store.add([*IDS[5:], IDS[0]], np.concatenate([vectors[5:], vectors[:1]]), [*META[5:], META[0]])
    store.delete([IDS[4]])
    blocks = list(store.blocks(size=size))
    assert all(0 < len(block.ids) == len(block.vectors) == len(block.meta) <= size for block in blocks)
    assert {(block.vectors.dtype, block.vectors.shape[1]) for block in blocks} == {(np.dtype("float32"), 8)}
    ids = [name for block in blocks for name in block.ids]
    assert sorted(ids) == [*IDS[:4], *IDS[5:]]
    order = [IDS.index(name) for name in ids]
    np.testing.assert_array_equal(np.concatenate([block.vectors for block in blocks]), vectors[order])
    assert [meta for block in blocks for meta in block.meta] == [META[i] for i in order]


def test_blocks_of_a_filter_and_of_nothing(store, unit):
    assert list(store.blocks()) == []
    vectors = unit(8)
    store.add(IDS, vectors, META)
    (block,) = store.blocks(where="width = 800 OR id = 'dir/6.png'")
    np.testing.assert_array_equal(block.vectors, vectors[[IDS.index(name) for name in block.ids]])
    assert sorted(block.ids) == [IDS[1], IDS[6]]
    assert list(store.blocks(where="width = 7")) == []
    with pytest.raises(UsageError, match="no metadata called 'widht'"):
        list(store.blocks(where="widht > 3"))
