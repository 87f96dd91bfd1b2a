"""The steps of `attn retrieve curate` over all photos, and what they came to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...batch.run import BatchOutcome, run_batch
from ...batch.task import Task
from ...bundles import Placement
from ...io.atomic import write_text
from ...progress import Watcher
from ...report.model import Item
from ..data.evalset import counted
from ..options.curate import CurateOptions
from . import phrases
from .answers import KeptAnswers, Listener, ask, questions
from .captioner import Captioner
from .crops import Crop, CropsItem, measure_photo
from .templates import FILE as TEMPLATES
from .templates import Template, drawn, make_templates, read_templates, template_of, write_templates
from .verdicts import Verdict, judge

CAPTIONS, CROPS = "captions.jsonl", "crops.jsonl"


class Pipeline:
    """One run: ``run`` does it, the attributes are what it came to.

    Parameters
    ----------
    folder : Path
        Of the results.
    options : CurateOptions
    placement : Placement
    watcher : Watcher
    captioner : Captioner or None
        None: crops are judged only.
    given : sequence of Template
        The user's; empty: they are made.
    """

    def __init__(
        self, folder: Path, options: CurateOptions, placement: Placement, watcher: Watcher,
        captioner: Captioner | None, given: Sequence[Template],
    ) -> None:  # fmt: skip
        self.folder, self.options, self.placement, self.watcher = folder, options, placement, watcher
        self.captioner = captioner
        self.templates: Sequence[Template] = given
        self.outcome = BatchOutcome(())
        """Of the step that came last."""
        self.verdicts: list[Verdict] = []
        self.failed: list[Item] = []
        self.warnings: list[str] = []
        self.remarks: list[str] = []
        self.files: dict[str, str] = {}
        self.used: Counter[str] = Counter()
        """Captions by template."""
        self._answers: KeptAnswers | None = None
        self._counts: Counter[str] = Counter()

    @property
    def kept(self) -> list[Crop]:
        return [verdict.crop for verdict in self.verdicts if verdict.kept]

    def counts(self) -> Mapping[str, float]:
        """The metrics of the run."""
        crops = {"crops": len(self.verdicts), "kept": len(self.kept), "dropped": len(self.verdicts) - len(self.kept)}
        return {"photos": self._counts["photos"], **crops, "failed": len(self.failed)} | (
            {name: self._counts[name] for name in _CAPTIONED} if self.captioner else {}
        )

    def run(self, tasks: Sequence[Task]) -> None:
        """All steps for the photos of ``tasks``; Ctrl-C ends it with what was answered kept."""
        self._measure(tasks)
        if self.outcome.interrupted:
            return
        if self.captioner is None:
            self.remarks.append("no captioner was named: crops were judged, not described")
            return
        self._answers = KeptAnswers(self.folder, self.captioner.mark, fresh=self.placement.overwrite)
        if self._answers.damaged:
            lines = counted(self._answers.damaged, "line", "lines")
            self.warnings.append(f"{lines} of {self._answers.path} could not be read: what it said is asked again")
        self._choose_templates()
        if not self.outcome.interrupted:
            self._caption()

    def _batch(self, work: Callable[..., Item], tasks: Sequence[Task], watcher: Watcher) -> None:
        self.outcome = run_batch(work, tasks, self.placement, watcher)
        self.failed += [item for item in self.outcome.items if item.status == "failed"]

    # -- which crops

    def _measure(self, tasks: Sequence[Task]) -> None:
        self._batch(partial(measure_photo, output=str(self.folder)), tasks, self.watcher)
        items = [item for item in self.outcome.items if isinstance(item, CropsItem)]
        self._counts["photos"] = len(tasks)
        for warning, count in Counter(warning for item in items for warning in item.warnings).items():
            self.warnings.append(warning if count == 1 else f"{warning} ({count} photos)")
        if self.options.boxes is not None and (bare := [item.input for item in items if not item.crops]):
            self.warnings.append(
                counted(len(bare), "photo has", "photos have")
                + f" no box in {self.options.boxes} (such as {bare[0]}): nothing was cut from them"
            )
        if self.outcome.interrupted:
            return
        self.verdicts = judge([crop for item in items for crop in item.crops], self.options)
        for verdict in self.verdicts:
            if verdict.crop.person is not None and not verdict.kept:
                (self.folder / verdict.crop.image).unlink(missing_ok=True)  # what was cut out is ours
        if self.verdicts and not any(crop.person and crop.person.visible for crop in self.kept):
            self.remarks.append("poses were not checked: no keypoints were given")
        self._write(CROPS, "crops", map(_judged, self.verdicts))

    # -- what is said of them

    def _ask(self, wanted: Sequence[tuple[Crop, str]]) -> None:
        """Ask what is not known yet."""
        assert self._answers is not None
        todo = [(crop, template) for crop, template in wanted if template not in self._answers.of(crop)]
        self._counts["asked"] += len(todo)
        self._counts["known"] += len(wanted) - len(todo)
        if todo:
            work = partial(ask, options=self.options)
            self._batch(work, questions(todo, self.folder), Listener(self._answers, self.watcher))

    def _choose_templates(self) -> None:
        """Those that were given, those of OUT, or new ones; descriptions are asked for where they are needed."""
        assert self._answers is not None
        place = self.folder / TEMPLATES
        there = not self.templates and place.exists() and not self.placement.overwrite
        if there:
            self.templates = read_templates(place, "output")
            self.remarks.append(f"{len(self.templates)} templates of {place} were used; remove it to make new ones")
        if self.options.fill == "words" or not self.templates:
            self._ask([(crop, "") for crop in self.kept])
            if self.outcome.interrupted:
                return
        if not self.templates:
            said = [text for crop in self.kept if (text := self._answers.of(crop).get(""))]
            if bare := sum(not template_of(text) for text in said):
                self.warnings.append(
                    counted(bare, "description gives", "descriptions give")
                    + " no template: no slot is in it, or what somebody looks like stands outside of slots"
                )
            options = self.options
            self.templates = make_templates(
                said, options.encoder, clusters=options.clusters, random_each=options.random_each, seed=options.seed
            )
            if self.templates:
                write_templates(self.folder, self.templates)
        self._counts["templates"] = len(self.templates)
        self._counts["clusters"] = len({template.cluster for template in self.templates})

    def _caption(self) -> None:
        """Captions of each crop, by templates that are drawn for it; and the list of pairs."""
        assert self._answers is not None
        texts = [template.text for template in self.templates]
        wanted, seed = self.options.captions_each, self.options.seed
        captions: dict[str, list[tuple[str, str]]] = {}  # of each image, (template or "", text)
        if self.options.fill == "words":
            for crop in self.kept:
                if (said := self._answers.of(crop).get("")) is None:
                    continue
                values = phrases.parse(said).values
                fitting = [text for text in texts if phrases.fits(text, values)]
                chosen = drawn(fitting, crop.image, wanted, seed)
                self._counts["unfitting"] += not chosen
                self._counts["values"] += len(values) * len(chosen)
                self._counts["values_left_out"] += sum(len(values.keys() - set(phrases.slots(text))) for text in chosen)
                captions[crop.image] = [(text, phrases.filled(text, values)) for text in chosen] or [("", said)]
        else:
            choices = {crop.image: drawn(texts, crop.image, wanted, seed, self._answers.of(crop)) for crop in self.kept}
            self._ask([(crop, text) for crop in self.kept for text in choices[crop.image]])
            if self.outcome.interrupted:
                return
            for crop in self.kept:
                said_of = self._answers.of(crop)
                captions[crop.image] = [(text, said_of[text]) for text in choices[crop.image] if text in said_of]
                if not texts and "" in said_of:
                    captions[crop.image] = [("", said_of[""])]
                    self._counts["unfitting"] += 1
                    continue
                self._counts["off_template"] += sum(not phrases.follows(*pair) for pair in captions[crop.image])
        rows = []
        for crop in self.kept:
            pairs = {text: template for template, text in captions.get(crop.image, ())}
            self._counts["repeated"] += len(captions.get(crop.image, ())) - len(pairs)
            self._counts["undescribed"] += not pairs
            self._counts["short"] += 0 < len(pairs) < wanted
            self.used.update(template for template in pairs.values() if template)
            if pairs:
                rows.append(_pair(crop, list(pairs)))
        every = [caption for row in rows for caption in row["captions"]]
        self._counts["captions"], self._counts["vocabulary"] = len(every), phrases.vocabulary(every)
        self._write(CAPTIONS, "captions", rows)
        if not rows:
            self.warnings.append(f"no crop has a caption: {self.folder / CAPTIONS} is empty")
        self._tell()

    def _tell(self) -> None:
        """What of the captions the user should know."""
        counts = self._counts
        for name, single, many, what in (
            ("off_template", "caption does", "captions do", "not follow the template that was asked for: kept"),
            ("unfitting", "crop fits", "crops fit", "no template, or there is none: the description is the caption"),
            ("repeated", "caption was", "captions were", "the same as another one of the crop: left out"),
            ("short", "crop has", "crops have", f"fewer than {self.options.captions_each} captions"),
            ("undescribed", "crop has", "crops have", "no caption: left out of the list"),
        ):  # fmt: skip
            if counts[name]:
                self.warnings.append(f"{counted(counts[name], single, many)} {what}")
        if counts["values_left_out"]:
            share = counts["values_left_out"] / counts["values"]
            self.remarks.append(f"{share:.0%} of what descriptions say of slots is not in the templates drawn for them")

    def _write(self, name: str, what: str, rows: Any) -> None:
        write_text(self.folder / name, "".join(json.dumps(row) + "\n" for row in rows))
        self.files[what] = str(self.folder / name)


_CAPTIONED = (
    "asked", "known", "templates", "clusters", "captions", "vocabulary", "off_template", "unfitting", "repeated",
    "short", "undescribed",
)  # fmt: skip
"""``asked``, ``known``: questions that went to the captioner now, and those it had answered before."""


def _pair(crop: Crop, captions: list[str]) -> dict[str, Any]:
    """A line of the list that training reads."""
    identity = {"id": crop.person.identity} if crop.person is not None and crop.person.identity else {}
    return {"image": crop.image, "captions": captions, **identity, "split": "train"}


def _judged(verdict: Verdict) -> dict[str, Any]:
    """A line of the list of all crops."""
    crop, person = verdict.crop, verdict.crop.person
    blur = None if crop.blur != crop.blur else round(crop.blur, 4)
    row: dict[str, Any] = {"image": crop.image, "photo": crop.photo, "kept": verdict.kept}
    row |= {"reasons": dict(verdict.reasons), "width": crop.size[1], "height": crop.size[0], "blur": blur}
    return row if person is None else row | {"box": list(person.box), "score": person.score}
