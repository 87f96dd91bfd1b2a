"""Entries most like entries of the index."""

from __future__ import annotations

import numpy as np
import pytest

from attn.core.errors import InputError, UsageError
from attn.core.retrieve.options.find import SimilarOptions
from attn.core.retrieve.store import open_store
from attn.core.retrieve.verbs.similar import NEIGHBOURS, similar

IDS = [f"{i:02d}.jpg" for i in range(30)]
META = [{"path": f"photos/{name}", "n": i, "text": None} for i, name in enumerate(IDS)]


def ids_of(result):
    return [hit.id for hit in result.ranked]


@pytest.mark.parametrize("kind", ["flat", "lance", "qdrant"])
def test_neighbours_are_the_exact_ones_without_the_entry_itself(made, unit, kind):
    vectors = unit(30)
    index = made(IDS, vectors, META, kind)
    found = similar(index, ["07.jpg", "photos/11.jpg"], SimilarOptions(top=4))
    for result, row in zip(found.results, (7, 11), strict=True):
        scores = vectors.astype(np.float64) @ vectors[row].astype(np.float64)
        want = [IDS[i] for i in np.argsort(-scores) if i != row][:4]
        assert ids_of(result) == want
        assert result.query_id == IDS[row]
        assert result.query == f"photos/{IDS[row]}"
        assert [hit.score for hit in result.ranked] == pytest.approx(sorted(scores)[::-1][1:5], abs=1e-6)
    assert found.report.summary["entries"] == 30
    assert found.report.summary["model"] == "tiny"
    assert [item["details"]["hits"][0]["path"] for item in found.report.to_dict()["items"]] == [
        f"photos/{ids_of(result)[0]}" for result in found.results
    ]


def test_the_filter_is_for_the_hits_only(made, unit):
    index = made(IDS, unit(30), META)
    (result,) = similar(index, ["03.jpg"], SimilarOptions(where="n >= 20")).results
    assert sorted(ids_of(result)) == IDS[20:]
    with pytest.raises(UsageError, match="no metadata called 'm'"):
        similar(index, ["03.jpg"], SimilarOptions(where="m > 3"))


def test_among_equal_entries_the_one_asked_about_is_left_out_and_the_cut_is_by_id(made, unit):
    index = made(IDS, np.repeat(unit(1), 30, axis=0))
    first, last = similar(index, ["00.jpg", "29.jpg"], SimilarOptions(top=3)).results
    assert ids_of(first) == ["01.jpg", "02.jpg", "03.jpg"]
    assert ids_of(last) == ["00.jpg", "01.jpg", "02.jpg"]


def test_an_entry_named_twice_is_asked_once_and_the_order_is_the_users(made, unit):
    index = made(["it's", "b"], unit(2), [{"path": "x/it's"}, {"text": "words"}])
    found = similar(index, ["b", "x/it's", "it's", "b"])
    assert [(result.query_id, result.query) for result in found.results] == [("b", "words"), ("it's", "x/it's")]


@pytest.mark.parametrize("kind", ["flat", "lance", "qdrant"])
def test_an_unknown_name_fails_alone_and_says_what_is_near(made, unit, kind):
    found = similar(made(IDS, unit(30), META, kind), ["07.jpgg", "01.jpg", "zzz"])
    assert [result.query_id for result in found.results] == ["01.jpg"]
    failed = {item.input: item.error for item in found.report.items if item.status == "failed"}
    assert failed.keys() == {"07.jpgg", "zzz"}
    assert failed["07.jpgg"].endswith("Did you mean 07.jpg?")
    assert "no entry of" in failed["zzz"]
    assert found.report.exit_code == 1


def test_the_hint_looks_at_names_nearby_and_at_equal_file_names(made, unit):
    ids = [f"a/{i:05d}.png" for i in range(2 * NEIGHBOURS)] + ["z/photo of a bear.png"]
    index = made(ids, unit(len(ids)))
    errors = [item.error for item in similar(index, ["b/photo of a bear.png", "a/0041.png"]).report.items]
    assert "Did you mean z/photo of a bear.png?" in errors[0]
    assert "Did you mean a/00" in errors[1]


def test_a_path_of_several_entries_is_not_guessed(made, unit):
    index = made(["a", "b", "c"], unit(3), [{"path": "book.txt"}] * 3)
    (item,) = similar(index, ["book.txt"]).report.items
    assert item.status == "failed"
    assert "'b' and 1 more. Give an id" in item.error


def test_an_empty_index_and_bad_arguments(made, unit, tmp_path):
    index = made([], unit(0))
    (item,) = similar(index, ["a"]).report.items
    assert "The index is empty" in item.error
    with pytest.raises(UsageError, match="nothing to compare with"):
        similar(index, [])
    with pytest.raises(UsageError, match=r"^top: "):
        similar(index, ["a"], SimilarOptions(top=0))
    with pytest.raises(InputError, match="no such index"):
        similar(tmp_path / "absent", ["a"])


def test_exact_overrides_an_approximate_index(made, unit, monkeypatch):
    vectors = unit(300)
    index = made([f"{i}" for i in range(300)], vectors, kind="lance")
    store = open_store(index)
    store.build_index()
    store.close()
    asked = []
    real = type(store).search

    def search(self, *args, exact, **options):
        asked.append(exact)
        return real(self, *args, exact=exact, **options)

    monkeypatch.setattr(type(store), "search", search)
    (exact,) = similar(index, ["5"], SimilarOptions(exact=True)).results
    similar(index, ["5"])
    assert asked == [True, False]
    scores = vectors @ vectors[5]
    assert ids_of(exact) == [str(i) for i in np.argsort(-scores)[1:11]]
