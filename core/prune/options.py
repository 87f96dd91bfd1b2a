"""What `attn prune` can be told, as one frozen value that travels to the workers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

from ..bundles import Device, Seed
from ..catalogue import complete
from ..options import Option, OptionError, check
from . import METHODS, MODIFIERS
from .named import options_of

KEEP = 0.25
GUIDES = {"shapes": "shapes-guide"}
"""Models that come with a smaller one of their family."""
Budget = float | int
"""A share of the visual tokens (float), or their number (int)."""


def parse_keep(text: str) -> Budget:
    """``0.25``, ``25%`` or ``144`` as a share in (0, 1] or a number of tokens. Raises ``ValueError`` for the rest."""
    words = text.strip()
    try:
        value = float(words.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is neither a share such as 0.25 or 25%, nor a number of tokens such as 144.")
    if words.endswith("%"):
        return checked_keep(value / 100, text)
    return checked_keep(int(value) if words.isdecimal() else value, text)


def checked_keep(keep: Budget, shown: str) -> Budget:
    """The budget itself. Raises ``ValueError`` for one that keeps nothing, or more than there is."""
    if keep <= 0:
        raise ValueError(f"{shown} keeps no token. Give a share above 0, such as 25%, or a number of tokens.")
    if isinstance(keep, float) and keep > 1:
        raise ValueError(f"{shown} keeps more tokens than there are. Give a share up to 100%, or a number of tokens.")
    return keep


def parse_exit(text: str) -> float | Path:
    """``0.8`` as a threshold of decisions, from 0; what is no number as a file. Raises ``ValueError`` for the rest."""
    words = text.strip()
    try:
        value = float(words)
    except ValueError:
        if not words:
            raise ValueError("name a threshold such as 0.8, or a file of `attn prune calibrate sgl`.") from None
        return Path(words)
    if not value >= 0:
        raise ValueError(f"{text} is no threshold: decisions are 0 to 1.")
    return value


def parse_names(text: str) -> tuple[str, ...]:
    """``fastv,visionzip`` as names. Raises ``ValueError`` where there is none."""
    names = tuple(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))
    if not names:
        raise ValueError("name methods, separated by commas. `attn prune --list` shows all.")
    return names


def parse_setting(text: str) -> tuple[str, str, str]:
    """``rows=code`` or ``sgl.rows=code`` as method ("" for the chosen one), setting and text."""
    target, equals, value = text.partition("=")
    method, dot, name = target.rpartition(".")
    if not (equals and name and value) or (dot and not method):
        raise ValueError(f"{text!r} is no setting. Use NAME=VALUE, or METHOD.NAME=VALUE.")
    return method, name, value


def by_method(settings: tuple[tuple[str, str, str], ...]) -> dict[str, dict[str, str]]:
    """Method -> its settings; the last of two values counts."""
    gathered: dict[str, dict[str, str]] = {}
    for method, name, value in settings:
        gathered.setdefault(method, {})[name] = value
    return gathered


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Which model is looked at.

    Parameters
    ----------
    model : str
        See ``attn.core.models.load``.
    allow_download : bool
    """

    model: Annotated[
        str,
        Option(
            "shapes, which comes with attn; a folder of transformers with a vision-language model (LLaVA, LLaVA-NeXT, "
            "Qwen2-VL, Qwen2.5-VL, SmolVLM, Idefics3, InternVL), or with an image classifier or backbone (ViT, DeiT, "
            "DINOv2; of timm, too); vit (ViT-S/14 of attn[vit]); or a Hugging Face id that is on this machine.",
            metavar="NAME|DIR|ID",
        ),
    ] = "shapes"  # fmt: skip
    allow_download: Annotated[bool, Option("Ask the Hugging Face hub for an id that is not here.")] = False

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """Everything but where the batch runs.

    Parameters
    ----------
    choice : ModelChoice
    prompt : str or None
        What is asked about every picture; a vision-language model needs it.
    method : str
        A name in ``METHODS``.
    keep : float, int or None
        See ``methods.base.Keep``. None: ``KEEP``, or, where pixels are kept, what the method says.
    compare : tuple of str
        Further methods to run beside ``method``, at its counted budget.
    layer : int or None
        Decoder layer in front of which tokens go; None: that of the method's paper, scaled to the model's depth.
    positions : {"keep", "compact"}
        Tokens keep their positions, or are numbered anew.
    guide : str or None
        Smaller model of the same family (sgl); None: that of ``GUIDES``.
    early_exit : float, Path or None
        From which decision on the guide's own answer is taken, or the file that says it (sgl).
    calibration : Path or None
        A fitted trend (+debias) or strategy.
    settings : mapping of str to mapping
        Further settings of methods, as text; "" is the chosen one.
    max_new_tokens : int
        Length of an answer at most.
    save, saved : Path or None
        Folders: see ``saved``.
    repeat : int
        Timed runs; their median is reported. 0: nothing is timed.
    device, dtype : str
    seed : int
        Of what a method draws.
    """

    choice: ModelChoice = field(default_factory=ModelChoice)
    prompt: Annotated[
        str | None, Option("What is asked about every picture; a vision-language model needs it.", metavar="TEXT")
    ] = None
    method: Annotated[str, Option("See --list.", short="-m", metavar="NAME[+debias]", complete=complete("prune"))] = (
        "divprune"
    )
    keep: Annotated[
        Budget | None,
        Option(
            "What stays of the visual tokens: a share, or how many; of carve the share of the pixels.",
            short="-k", metavar="0.25|25%|144", parse=parse_keep, shown="25%, the method's own of carve",
        ),
    ] = None  # fmt: skip
    compare: Annotated[
        tuple[str, ...],
        Option(
            "Further methods, separated by commas, side by side at the same counted budget: one table and "
            "NAME.compare.png.",
            metavar="NAMES", parse=parse_names,
        ),
    ] = ()  # fmt: skip
    layer: Annotated[
        int | None,
        Option(
            "Decoder layer in front of which tokens go, counted from 0; 0 is before the language model.",
            metavar="N", least=0, shown="the paper's, scaled to the depth",
        ),
    ] = None  # fmt: skip
    positions: Annotated[
        Literal["keep", "compact"],
        Option("Tokens that stay keep their positions, or are numbered anew.", metavar="keep|compact"),
    ] = "keep"
    guide: Annotated[
        str | None,
        Option(
            "Smaller model of the same family that says what matters (sgl): a folder, or an id that is here.",
            metavar="DIR|ID", shown="shapes-guide for the model shapes",
        ),
    ] = None  # fmt: skip
    early_exit: Annotated[
        float | Path | None,
        Option(
            "Take the guide's own answer where it looks as safe as this (sgl): a threshold of its decision, 0 to 1, or "
            "the file of `attn prune calibrate sgl`.",
            metavar="X|FILE", parse=parse_exit, shown="the large model always answers",
        ),
    ] = None  # fmt: skip
    calibration: Annotated[
        Path | None,
        Option("What `attn prune calibrate` fitted for the method or for +debias.", metavar="FILE"),
    ] = None
    settings: Annotated[
        Mapping[str, Mapping[str, str]],
        Option(
            "Another setting of the method, or of one of --compare as METHOD.NAME=VALUE; repeatable.",
            name="--set", metavar="NAME=VALUE", parse=parse_setting, repeatable=True, gather=by_method,
        ),
    ] = field(default_factory=dict)  # fmt: skip
    max_new_tokens: Annotated[int, Option("Length of an answer, at most.", metavar="N", least=1, most=4096)] = 32
    save: Annotated[
        Path | None,
        Option("Keep what makes the same again: settings, and the files that they name.", metavar="DIR"),
    ] = None
    saved: Annotated[
        Path | None,
        Option("Do as a kept folder says, which names method, budget and settings.", metavar="DIR"),
    ] = None
    repeat: Annotated[
        int, Option("Timed runs behind one that is not counted; their median is reported. 0: no times.", metavar="N",
                    least=0, most=1000),
    ] = 3  # fmt: skip
    device: Device = "auto"
    dtype: Annotated[
        str, Option("float32 (fp32), bfloat16 (bf16), float16 or float64.", metavar="DTYPE", common=True)
    ] = "float32"
    seed: Seed = 77

    def __post_init__(self) -> None:
        check(self)
        if self.keep is None:
            return
        if not isinstance(self.keep, int | float) or isinstance(self.keep, bool):
            raise OptionError(f"{{keep}}: {self.keep!r} is no share of the tokens and no number of them.")
        try:
            checked_keep(self.keep, str(self.keep))
        except ValueError as error:
            raise OptionError(f"{{keep}}: {error}") from None

    @property
    def budget(self) -> Budget:
        """What stays of the visual tokens."""
        return KEEP if self.keep is None else self.keep


def check_read(options: PruneOptions, given: Collection[str] = ()) -> None:
    """Refuse what was given and neither the chosen method nor one of the comparison reads, or a kept folder says.

    So are settings of a method that is not run.

    The seed is no order: a method without anything random leaves it unread.

    Parameters
    ----------
    options : PruneOptions
    given : collection of str
        Fields that were given whatever their value; others are taken for given where they differ from the default.

    Raises
    ------
    OptionError
    """
    used = (options.method, *options.compare)
    read = {"seed"}.union(*(options_of(name) for name in used))
    rows = {**METHODS, **{f"…+{name}": row for name, row in MODIFIERS.items()}}
    for target in options.settings.keys() - {"", *used}:
        setting, text = next(iter(options.settings[target].items()))
        raise OptionError(
            f"{{settings}} {target}.{setting}={text}: {target} is not run, but {', '.join(dict.fromkeys(used))}."
        )
    for name in (one.name for one in fields(options)):
        readers = [method for method, row in rows.items() if name in (row.options or ())]
        wanted = name in given or getattr(options, name) != getattr(PruneOptions(), name)
        if wanted and readers and name not in read:
            raise OptionError(
                f"{{{name}}} works with {{method}} {' or '.join(readers)} only, not with {options.method}."
            )
        if wanted and options.saved is not None and (name in _SAID or (readers and name != "seed")):
            raise OptionError(f"{{{name}}}: {{saved}} says that. Leave one of them out.")


_SAID = ("method", "keep", "positions", "settings", "compare")
"""What a kept folder says, or cannot be told beside it."""
