"""`attn probe saliency` on tiny models: files, report, texts, drawn scenes, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import transformers as hf
from PIL import Image
from small_causal_lms import small_causal_lm
from small_vlms import coloured, vlm_folder, words

from attn.core.errors import UsageError
from attn.core.options import OptionError, build
from attn.core.probe.panel import draw_figure, read_figure
from attn.core.probe.saliency.options import SaliencyOptions
from attn.core.probe.saliency.run import run
from attn.core.probe.saliency.scenes import auroc, quartile_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vlm_folder(tmp_path_factory.mktemp("model") / "llava", "llava padded")


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model") / "llama"
    small_causal_lm("llama", "sdpa").save_pretrained(place)
    words().save_pretrained(place)
    return place


def options(folder: Path, *inputs: str, **more: object) -> SaliencyOptions:
    settings = {"max_new_tokens": 3, "model": str(folder), "device": "cpu", "trust": False}
    return build(SaliencyOptions, {"inputs": inputs, **settings, **more})


def picture(path: Path) -> str:
    pixels = np.rint(coloured(40, 60).pixels.transpose(1, 2, 0) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def test_a_picture_and_its_mitigated_answer(folder: Path, tmp_path: Path) -> None:
    name = picture(tmp_path / "photo.png")
    asked = options(
        folder, name, prompt="what colour is it", output=str(tmp_path / "out"), mitigate=("sgrs", "locore"), trust=True
    )
    (item,) = run(asked).items
    assert item.status == "ok", item.error
    assert set(item.files) == {"figure", "arrays", "facts"}
    assert item.metrics["tokens"] == item.metrics["tokens_mitigated"] == 3
    assert sum(item.metrics[f"on_{of}"] for of in ("system", "image", "prompt", "output")) == pytest.approx(1)
    with np.load(item.files["arrays"]) as arrays:
        assert arrays["shares"].shape == (3, 4, 4)
        assert arrays["image"].shape == (36,)
        assert arrays["score"].mean() == pytest.approx(item.metrics["score"])
    sections = {section.name: section for section in item.sections}
    assert [(line.check, line.passed) for line in sections["trust"].lines] == [("randomised weights", False)]
    assert len(sections["tokens"].rows()) == 3
    assert len(sections["candidates"].rows()) == 15
    assert [row["decoding"] for row in sections["mitigated"].rows()] == ["as it is", "mitigated"]
    draw_figure(tmp_path / "again.png", read_figure(Path(item.files["facts"])))
    assert (tmp_path / "again.png").read_bytes() == Path(item.files["figure"]).read_bytes()
    (again,) = run(asked).items
    assert (again.status, again.warnings) == ("skipped", ())


def test_an_answer_that_is_given(folder: Path, tmp_path: Path) -> None:
    asked = options(
        folder, picture(tmp_path / "p.png"), prompt="where is it", answer="in the green", norm="matrix", signed=True
    )
    (item,) = run(asked).items
    assert item.status == "ok", item.error
    sections = {section.name: section for section in item.sections}
    assert [row["token"] for row in sections["tokens"].rows()] == ["in", "the", "green"]
    assert "candidates" not in sections


def test_texts_and_a_prompt_alone(text_model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("what colour is the red")
    (tmp_path / "empty.md").write_text(" ")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "long.txt").write_text("what " * 2100)
    report = run(options(text_model, str(tmp_path), prompt="where", output=str(tmp_path / "out")))
    assert {Path(item.input).name: item.status for item in report.items} == {
        "a.txt": "ok", "empty.md": "failed", "bad.txt": "failed", "long.txt": "failed"
    }  # fmt: skip
    assert any("tokens; the model was made for 2048" in str(item.error) for item in report.items)
    (item,) = run(options(text_model, prompt="what is red", output=str(tmp_path))).items
    assert (item.status, item.metrics["on_image"]) == ("ok", 0)
    assert (tmp_path / "prompt.saliency.png").exists()


def test_standard_output_in_a_file_of_its_own(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """-o x.png --json > x.json: the report would go into a file that the facts of the figure replace."""
    (tmp_path / "a.txt").write_text("what colour is the red")
    for inputs, more, clash in (
        ((), {"prompt": "what is red"}, "x.json"),
        ((str(tmp_path / "a.txt"),), {}, "x.npz"),
        ((str(tmp_path / "a.txt"),), {}, "x.png"),
    ):
        with open(tmp_path / clash, "w") as out:
            monkeypatch.setattr("sys.stdout", out)
            with pytest.raises(UsageError, match=f"standard output goes to .*{clash}, which this command writes"):
                run(options(text_model, *inputs, output=str(tmp_path / "x.png"), **more))
            assert sorted(path.name for path in tmp_path.glob("x.*")) == [clash]
        (tmp_path / clash).unlink()
    with open(tmp_path / "report.json", "w") as out:
        monkeypatch.setattr("sys.stdout", out)
        (item,) = run(options(text_model, prompt="what is red", output=str(tmp_path / "x.png"), trust=False)).items
    assert item.status == "ok"


def test_drawn_scenes(tmp_path: Path) -> None:
    asked = build(
        SaliencyOptions,
        {"inputs": ("shapes:exists:3x8",), "device": "cpu", "output": str(tmp_path), "mitigate": ("sgrs", "locore")},
    )
    (item,) = run(asked).items
    tables = {section.name: section.rows() for section in item.sections}
    assert [row["decoding"] for row in tables["decodings"]] == [
        "as it is", "released sgrs (top-K sampling)", "sgrs", "locore", "sgrs+locore"
    ]  # fmt: skip
    assert {row["tokens"] for row in tables["decodings"]} == {1}
    assert sum(row["answers"] for row in tables["quartiles"]) == 8
    assert (tmp_path / "shapes.saliency.png").exists()


def test_how_well_low_scores_predict() -> None:
    scores, wrong = np.array([0.1, 0.2, 0.3, 0.4]), [True, True, False, False]
    assert auroc(scores, wrong) == 1
    assert auroc(-scores, wrong) == 0
    assert auroc(np.ones(4), wrong) == 0.5
    assert np.isnan(auroc(scores, [False] * 4))
    assert [row["wrong"] for row in quartile_rows(scores, wrong)] == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("inputs", "more", "said"),
    [
        ((), {}, "nothing to look at"),
        (("a.png",), {"prompt": " "}, "prompt: it is empty"),
        (("shapesx4",), {"prompt": "what"}, "of its own"),
        (("a.png",), {"prompt": "what", "released": True}, "works with mitigate sgrs only"),
        (("a.png",), {"prompt": "what", "beta": 0.2}, "works with mitigate locore only"),
        (("a.png",), {"prompt": "what", "norm": "matrix", "mitigate": ("sgrs",)}, "whole pass"),
        (("a.png",), {"prompt": "what", "signed": True, "mitigate": ("sgrs",)}, "absolute"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, inputs: tuple[str, ...], more: dict[str, object], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        options(tmp_path, *inputs, **more)


def test_models_and_inputs_that_do_not_fit(folder: Path, text_model: Path, tmp_path: Path) -> None:
    name = picture(tmp_path / "p.png")
    for where, inputs, more, said in (
        (folder, (), {"prompt": "what"}, "answers about pictures"),
        (folder, (name,), {}, "what is asked"),
        (folder, (name,), {"prompt": "what", "layers": (9,)}, "layers 0 to 3"),
        (folder, (name,), {"prompt": "what", "answer": "a zebra"}, "does not know 'zebra'"),
        (folder, (name,), {"prompt": "what", "mitigate": ("locore",), "locore_layers": (4,)}, "layers 0 to 3"),
        (text_model, ("shapesx4",), {}, "text alone"),
    ):
        with pytest.raises(UsageError, match=said):
            run(options(where, *inputs, **more))
    (item,) = run(options(text_model, name, prompt="what", output=str(tmp_path / "o"))).items
    assert "text (UTF-8)" in str(item.error)
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (item,) = run(options(folder, str(tmp_path / "bad.png"), prompt="what", output=str(tmp_path / "o"))).items
    assert item.status == "failed"


def test_an_unknown_class_is_named(tmp_path: Path) -> None:
    config = hf.GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=60, bos_token_id=1, eos_token_id=2)
    hf.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    words().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="GPT2Attention is no attention that attn knows"):
        run(options(tmp_path, prompt="what"))
