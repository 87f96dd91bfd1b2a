"""What captioners said, kept as soon as it is said: a run that was killed asks again for nothing that it has.

OUT/answers.jsonl, one answer a line: {image, stamp, mark, template, text}. Lines are only added; where two are of one
question, the later counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...batch.task import Task
from ...errors import InputError
from ...io.kinds import open_regular
from ...io.records import decoded
from ...io.tables import read_picture
from ...models.pictures import MAX_SIDE
from ...progress import Watcher
from ...report.model import Item
from ..options.curate import CurateOptions
from .captioner import captioner_of
from .crops import Crop, picture

FILE = "answers.jsonl"
_FIELDS = ("image", "stamp", "mark", "template", "text")


@dataclass(frozen=True, slots=True)
class AnsweredItem(Item):
    """The item of a question: what was said, and about what."""

    answer: Mapping[str, str] | None = None


class KeptAnswers:
    """The answers of one captioner.

    Parameters
    ----------
    folder : Path
        Of the results.
    mark : str
        Of the captioner.
    fresh : bool
        Nothing that was said before counts.
    """

    def __init__(self, folder: Path, mark: str, *, fresh: bool = False) -> None:
        self.path, self.mark = folder / FILE, mark
        self.damaged = 0
        """Lines that hold no answer: of a run that was killed, or edited."""
        self._said: dict[tuple[str, str], dict[str, str]] = {}
        if not fresh and self.path.exists():
            with open_regular(self.path) as file:
                for _, line in decoded(self.path, file, errors="replace"):
                    self._read(line)

    def _read(self, line: str) -> None:
        try:
            record = json.loads(line)
            values = [record[name] for name in _FIELDS]
        except (ValueError, KeyError, TypeError, RecursionError):
            values = [None]
        if not all(isinstance(value, str) for value in values):
            self.damaged += 1
            return
        image, stamp, mark, template, text = values
        if mark == self.mark:
            self._said.setdefault((image, stamp), {})[template] = text

    def of(self, crop: Crop) -> Mapping[str, str]:
        """What was said of a crop as it is now: template -> text, "" being its description."""
        return self._said.get((crop.image, crop.stamp), {})

    def add(self, record: Mapping[str, str]) -> None:
        """Keep an answer, on disk too. Raises ``InputError`` if that is not possible."""
        self._said.setdefault((record["image"], record["stamp"]), {})[record["template"]] = record["text"]
        try:
            with open(self.path, "ab+") as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    torn = file.read(1) != b"\n"  # a run that was killed left half a line
                    file.write(b"\n" * torn)
                file.write(json.dumps({**record, "mark": self.mark}).encode() + b"\n")
        except OSError as error:
            raise InputError(
                self.path, f"cannot be written ({error.strerror})", "Check permissions and space"
            ) from error


class Listener:
    """A watcher that keeps each answer at once, in this process only, and tells another of it."""

    def __init__(self, kept: KeptAnswers, watcher: Watcher) -> None:
        self.kept, self.watcher = kept, watcher

    def item(self, item: Item, done: int, total: int) -> None:
        if isinstance(item, AnsweredItem) and item.answer is not None:
            self.kept.add(item.answer)
        self.watcher.item(item, done, total)

    def step(self, name: str, done: int, total: int) -> None:
        self.watcher.step(name, done, total)


def questions(crops: Sequence[tuple[Crop, str]], folder: Path) -> list[Task]:
    """A task for each crop and template."""
    return [
        Task(Path(os.path.normpath(folder / crop.image)), None, crop.photo if crop.person is None else crop.image,
             payload=(crop, template))
        for crop, template in crops
    ]  # fmt: skip


def ask(task: Task, step: Callable[[int, int], None], options: CurateOptions) -> Item:
    """One question to the captioner of ``options``."""
    crop, template = task.payload
    seen = picture(read_picture(task.source, MAX_SIDE))
    text = captioner_of(options).caption(seen, template, task.name)
    record = {"image": crop.image, "stamp": crop.stamp, "template": template, "text": text}
    return AnsweredItem(task.name, None, "ok", 0.0, answer=record)
