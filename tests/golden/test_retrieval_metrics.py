"""Official metrics: methods/ga-dms.md, section 10 (1e-4 relative) and methods/priorclip.md, section 10 (2 digits)."""

from pathlib import Path

import numpy as np
import pytest

from attn.core.retrieve.score.metrics import evaluate_identities, image_text_recall

VECTORS = Path(__file__).parent / "vectors"


@pytest.fixture(scope="module")
def person():
    with np.load(VECTORS / "ga-dms" / "losses_metrics.npz") as file:
        return {name: file[name] for name in ("similarity", "q_pids", "g_pids", "cmc", "mAP", "mINP")}


def test_person_metrics(person):
    cuts = [f"hit@{k}" for k in range(1, 11)]
    found = evaluate_identities(person["similarity"], person["q_pids"], person["g_pids"], [*cuts, "map", "minp"])
    values = found.values
    assert [100 * values[cut] for cut in cuts] == pytest.approx(person["cmc"].tolist(), rel=1e-4)
    assert 100 * values["map"] == pytest.approx(float(person["mAP"]), rel=1e-4)
    assert 100 * values["minp"] == pytest.approx(float(person["mINP"]), rel=1e-4)


def test_image_text_metrics():
    with np.load(VECTORS / "priorclip" / "losses_metrics.npz") as file:
        scores, per_image = file["scores_i2t"], int(file["captions_per_image"])
        golden = {name.removeprefix("metric/"): float(file[name]) for name in file.files if name.startswith("metric/")}
    values = image_text_recall(scores, np.arange(scores.shape[1]) // per_image)
    ours = {f"txt_r{k}": values[f"i2t_r@{k}"] for k in (1, 5, 10)}
    ours |= {f"img_r{k}": values[f"t2i_r@{k}"] for k in (1, 5, 10)} | {"r_mean": values["mr"]}
    assert {name: round(100 * value, 2) for name, value in ours.items()} == golden
