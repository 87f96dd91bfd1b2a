import json
from dataclasses import replace
from pathlib import Path

import pytest
from steps import Steps

from attn.core.bundles import Compute
from attn.core.compare import NAME
from attn.core.retrieve.gadms.people import make_people, write_people
from attn.core.train.ga_dms.compare import OWN, changed, models_of, summary_rows, verdicts
from attn.core.train.ga_dms.options import ARMS, FROM_SCRATCH, GADMSOptions, complete
from attn.core.train.ga_dms.run import COMPARED, train_ga_dms

OPTIONS = complete(
    GADMSOptions(
        Path("run"), width=16, vision_layers=1, text_layers=1, epochs=2, warmup=1, batch=16, repeats=2,
        compute=Compute(device="cpu", seed=3, threads=1),
    ),
    drawn=True,
)  # fmt: skip


def test_arms_differ_in_masking_alone():
    both = FROM_SCRATCH["losses"]
    found = {name: changed(OPTIONS, name) for name in ARMS}
    assert {name: (arm.losses == both, arm.noise, arm.scores) for name, arm in found.items()} == {
        "plain": (False, False, "gass"), "noise": (False, True, "gass"), "words": (True, False, "gass"),
        "both": (True, True, "gass"), "shuffled-noise": (False, True, "shuffled"),
        "shuffled-words": (True, False, "shuffled"), "shuffled-both": (True, True, "shuffled"),
    }  # fmt: skip
    assert all(replace(arm, losses=both, noise=True, scores="gass") == OPTIONS for arm in found.values())
    assert changed(replace(OPTIONS, losses=("sdm",)), "words").losses == ("sdm", "mlm")


def test_the_runs_own_model_is_trained_once():
    assert [model.arm for model in models_of(OPTIONS)] == [OWN]
    models = models_of(replace(OPTIONS, compare=("plain", "both")))
    assert [(model.arm, model.seed) for model in models] == [("both", 3), ("plain", 3), ("both", 4), ("plain", 4)]
    assert [model.folder for model in models] == ["", "compared/plain-3", "compared/both-4", "compared/plain-4"]
    other = models_of(replace(OPTIONS, compare=("plain",), scores="uniform", repeats=1))
    assert [(model.arm, model.options.scores) for model in other] == [(OWN, "uniform"), ("plain", "uniform")]


def test_means_spread_and_words():
    row = {"steps": 9, "seconds": 1.0, "r5": 0.5, "map": 0.5, "gass_wrong": 0.1}
    found = [
        row | {"arm": arm, "seed": seed, "r1": r1}
        for arm, values in (("plain", (0.1, 0.2)), ("both", (0.2, 0.4)), ("shuffled-both", (0.3, 0.3)))
        for seed, r1 in enumerate(values)
    ]
    table = {line["arm"]: line for line in summary_rows(found)}
    assert table["both"]["r1"] == pytest.approx(0.3)
    assert table["plain"]["r1_std"] == pytest.approx(0.0707, abs=1e-4)
    assert table["both"]["seeds"] == 2
    assert "r1_std" not in summary_rows(found[:1])[0]
    assert verdicts(found) == [
        "both against plain is better: R@1 +15.0 points (standard deviation 7.1), more in 2 of 2 seeds.",
        "shuffled-both against plain is better: R@1 +15.0 points (standard deviation 7.1), more in 2 of 2 seeds.",
        "both against shuffled-both is undecided: R@1 +0.0 points (standard deviation 14.1), more in 1 of 2 seeds.",
    ]


def test_a_comparison_goes_on_where_it_was_killed(tmp_path):
    data = write_people({"train": make_people(6, 5), "val": make_people(3, 5, skip=6)}, tmp_path / "data")
    options = replace(OPTIONS, data=str(data), output=tmp_path / "run", compare=("plain", "both"), repeats=1)

    def kill(step, steps):
        if step == 7:  # within the second model
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train_ga_dms(options, watcher=Steps(kill))
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert not (tmp_path / "run" / COMPARED).exists()
    told = []
    report = train_ga_dms(options, watcher=Steps(lambda *steps: told.append(steps)))
    assert told == [(step, 8) for step in range(7, 9)]  # the last evaluation was after step 6
    rows = [json.loads(line) for line in (tmp_path / "run" / COMPARED).read_text().splitlines()]
    assert [(row["arm"], row["seed"]) for row in rows] == [("both", 3), ("plain", 3)]
    (table,) = [section for section in report.sections if section.name == NAME]
    assert [(line["arm"], line["seeds"], line["steps"]) for line in table.rows()] == [("both", 1, 4), ("plain", 1, 4)]
    assert "gass_wrong" not in table.rows()[0]
    assert report.notices[0].startswith("both against plain ")
