"""What every calibration begins and ends with: questions and a model, a report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attn

from ..device import pick_device, set_threads
from ..errors import AttnError, InputError
from ..io.atomic import check_place
from ..models.load import load_model
from ..models.loaded import Loaded
from ..options import values
from ..progress import Bars, Watcher
from ..report.model import Item, Report, plain, summarise
from ..report.sections import Section
from .calibration import CalibrationOptions
from .data.marks import mark_of
from .data.read import read_samples
from .data.samples import QuestionSample
from .vlm.ask import PreparedPrompt, prepare


class LearningRun:
    """One run of ``attn prune calibrate NAME``.

    Parameters
    ----------
    name : str
        Of the calibration.
    options : dataclass
        Its options, the bundle among them.
    common : CalibrationOptions
        That bundle.
    watcher : Watcher or None
    arguments : mapping or None
        What the report records beside the options.

    Attributes
    ----------
    loaded : Loaded
        The model.
    samples : QuestionSet
    split : str
        Which of the data were used, for the file.
    marks : list of str
        Of the samples that ``questions`` gave so far.
    warnings : list of str

    Raises
    ------
    UsageError, InputError
        If the model cannot be loaded, the data cannot be read or the place cannot be written.
    """

    def __init__(
        self, name: str, options: Any, common: CalibrationOptions, watcher: Watcher | None,
        arguments: Mapping[str, Any] | None,
    ) -> None:  # fmt: skip
        self.started = time.perf_counter()
        self.name, self.options, self.common = name, options, common
        self.watcher, self.arguments = watcher or Bars(), dict(arguments or {})
        check_place("output", common.output, (".json",))
        set_threads(common.compute.threads)
        self.device = pick_device(common.compute.device)
        self.samples = read_samples(common.data, limit=common.samples, seed=common.compute.seed)
        self.loaded = self.load(common.choice.model)
        self.warnings = list(self.samples.warnings)
        self.marks: list[str] = []
        count = len(self.samples)
        self.split = f"{count} drawn with seed {common.compute.seed}" if common.samples else f"all {count}"

    def load(self, model: str) -> Loaded:
        """A vision-language model, where and as the options say."""
        download = self.common.choice.allow_download
        return load_model(model, "vision-language", device=self.device, allow_download=download)

    def questions(self, models: Sequence[Loaded] = ()) -> Iterator[tuple[QuestionSample, tuple[PreparedPrompt, ...]]]:
        """Every sample, prepared for each of ``models`` (default: the one model). What cannot be read is a warning.

        Raises
        ------
        InputError
            In the end, if none could be read.
        """
        done, fault = 0, ""
        for number, sample in enumerate(self.samples):
            try:
                picture = sample.read()
                made = tuple(prepare(loaded, [picture], sample.question) for loaded in models or (self.loaded,))
            except AttnError as error:
                fault = f"{sample.name} was left out: {getattr(error, 'reason', error)}"
                self.warnings.append(fault)
            else:
                for text in dict.fromkeys(text for each in made for text in each.warnings):
                    self.warnings += [text] if text not in self.warnings else []
                done += 1
                self.marks.append(mark_of(sample))
                yield sample, made
            self.watcher.step(f"calibrate {self.name}", number + 1, len(self.samples))
        if not done:
            raise InputError(self.common.data, f"has no picture that can be used ({fault})")

    def report(
        self, metrics: Mapping[str, float], *, sections: tuple[Section, ...] = (),
        details: Mapping[str, Any] | None = None, files: Mapping[str, Path] | None = None,
    ) -> Report:  # fmt: skip
        """The report of one item: the data, and the file that was written."""
        seconds = time.perf_counter() - self.started
        item = Item(
            self.common.data, str(self.common.output), "ok", seconds, metrics=dict(metrics),
            files={name: str(path) for name, path in (files or {}).items()}, warnings=tuple(self.warnings),
            details=dict(details or {}), sections=sections,
        )  # fmt: skip
        arguments = {"calibrate": self.name, **plain(values(self.options)), **self.arguments}
        return Report("prune", attn.__version__, arguments, str(self.device), seconds, (item,), summarise([item]))
