"""`attn prune`: parse, call core, show."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, fields
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NoReturn

from attn.core.bundles import Inputs, Placement, Reporting
from attn.core.options import Option, OptionError
from attn.core.prune.curves.options import CurveOptions, check_set
from attn.core.prune.options import PruneOptions, check_read

from .build import command
from .verbs import verbs as verbs_of

if TYPE_CHECKING:
    from attn.core.progress import Watcher
    from attn.core.report.model import Report

VERBS = {"calibrate": ("attn.cli.calibrate", "Fit what a pruning method learns, on data of its own.")}
EXAMPLES = {
    "": (
        ('attn prune photo.jpg --prompt "what colour is the bus" --model llava/', "A quarter of the visual tokens."),
        (
            'attn prune scene.png --prompt "where is the red star" --keep 40% --compare fastv,random',
            "Several methods at one counted budget, by the small model that comes with attn.",
        ),
        (
            'attn prune photo.jpg --prompt "how many cups" --model llava/ --method fastv+debias --save cups/',
            "A method without its liking for late tokens and padding; cups/ holds what makes the same again.",
        ),
        (
            'attn prune photo.jpg --prompt "what is on the sign" --model llava/ --method carve',
            "Pixels instead of tokens: ask again about what the question draws attention to.",
        ),
        (
            'attn prune scene.png --prompt "where is the red star" --method sgl --early-exit 0.8',
            "A smaller model says which tokens matter, and answers itself where that looks safe.",
        ),
        ("attn prune photos/ -o out/ --model vit --method tome --keep 70%", "An image classifier or backbone."),
        (
            'attn prune photos/ -o out/ --prompt "what is this" --model llava/ --keep 144 --report pruned.html',
            "A folder of photos, 144 tokens each, and one page with all overlays.",
        ),
        (
            "attn prune --dataset shapesx600 --methods fastv,visionzip --report curves.html",
            "Accuracy against the share of tokens that is kept, on drawn scenes.",
        ),
        (
            "attn prune --dataset questions.jsonl --model llava/ --keeps 50%,25% -o scored/",
            'Your own set: a line is {"image": "a.jpg", "question": "…", "answer": "…"}.',
        ),
    ),
}
NOTES = (
    "The model shapes, which comes with attn, knows drawn scenes and a few questions about them (examples/prune.sh). "
    "For photos name a model of your own.",
    "--keep says what is left behind a method's first choice, averaged over the layers from there on; mean_retention "
    "in reports is averaged over all layers, counted while the model ran. With --compare the other methods get the "
    "budget at which they leave as much over all layers as the first one; one that cannot is named in a warning.",
    "flops_ratio counts multiply-adds of the language model's layers in the prefill, after to before. Image tower, "
    "projector and the choice itself are not in it; scoring_seconds has the choice, and is part of "
    "prefill_seconds_after. Seconds are medians of runs with and without pruning, in turns, of the language model "
    "alone.",
    "top5_overlap, log_p_change and perplexity_ratio (of the whole model's own answer, in nats and as a factor) and "
    "last_token_cosine compare the two runs; oracle_spearman and oracle_overlap the scores of a method's first choice "
    "with the attention of all layers.",
    "logit_kl (in nats), top1_agreement and attention_mass say how near the pruned model stays to itself, not whether "
    "it is right: --dataset says that. On random weights they are noise, and the report says so (model_kind).",
    "The picture shows tokens that stay as they were with yellow frames, and with blue frames those that others were "
    "merged into. Where a model looks at tiles and at the whole picture, a place is as bright as the share of its "
    "tokens that stayed. What the model's processor cut off is pale.",
    "carve keeps pixels: --keep is their share, and tokens_after those of the second question, which shows the "
    "picture and the crop. It costs more than one question, not less.",
    "--early-exit of sgl: a guide's decision is the mean of how sure it was and of the probability of its answer when "
    "it sees 5 % of the tokens. With long answers the second is next to nothing: thresholds above 0.5 then always ask "
    "the large model. This command runs both models all the same, to tell what would be lost; "
    "attn.core.prune.sgl.early spares the large one.",
    "Image classifiers and backbones are asked nothing: answer_before and answer_after are the best class, of a "
    "backbone without classes class_token_cosine is told instead.",
    "A result that exists says which request it answers: one that was made with another model or other options is "
    "named in a warning, and --overwrite makes it again.",
)
FILES = (
    ("NAME.kept.png", "The picture with what was dropped dimmed, and the boxes of the tokens outlined; written last."),
    ("NAME.compare.png", "--compare: the same of every method."),
    ("NAME.crop.png", "carve: what the model was shown the second time."),
    ("DIR/prune.json", "--save: method, budget, settings and model; files that settings name lie beside it."),
    ("DATA.prune/points.jsonl, curves.png", "Of a set: a row for each method, share and task; and the picture of it."),
    ("DATA.prune/records/", "A line for each sample, method and share: what a run that was killed goes on from."),
)


@dataclass(frozen=True, slots=True)
class Pictures(Inputs):
    """What is looked at."""

    NOTHING: ClassVar[str] = "Name pictures, directories, - for a list on stdin, or example:photo."

    inputs: Annotated[
        tuple[str, ...],
        Option(
            "Pictures, directories, - for a list of paths on stdin, or example:NAME. A file called calibrate is "
            "./calibrate.",
            metavar="INPUT", positional=True,
        ),
    ] = ()  # fmt: skip
    dataset: Annotated[
        str | None,
        Option(
            "Score --methods on a set of questions instead: a folder of datasets, a parquet or JSONL file with image, "
            "question and answer, or drawn scenes, shapes[:TASK][:SEED]xN.",
            metavar="DATA",
        ),
    ] = None  # fmt: skip

    def __post_init__(self) -> None:
        if self.dataset is None:
            Inputs.__post_init__(self)
        elif self.inputs:
            raise OptionError(f"{{dataset}} has pictures of its own: leave {self.inputs[0]} out.")


def verbs() -> dict[str, Any]:
    """What stands on the pages of the verbs, by the words behind ``attn prune``."""
    listed = (("attn prune calibrate --list", "The methods that learn something beforehand."),)
    group = SimpleNamespace(examples=listed, files=(), notes=())
    return {"calibrate": group, **{f"calibrate {name}": row for name, row in verbs_of("prune calibrate").items()}}


def _main(
    inputs: Pictures, reporting: Reporting, options: PruneOptions, curve: CurveOptions, placement: Placement,
    given: frozenset[str],
) -> None:  # fmt: skip
    """Find out which visual tokens a model can do without, on your own pictures.

    Asks a vision-language model about every picture twice, with all its visual tokens and with those that the method
    keeps, and tells what is lost and won: the answer before and after, tokens, counted operations, memory of the
    cache, seconds. Writes the picture with the tokens that were kept.

    With --dataset it asks the questions of a set: accuracy and fidelity of several methods against the share of tokens
    that they keep, with intervals and tests. A run that was killed goes on where it was.
    """
    from .show import run_files

    if inputs.dataset is not None:
        check_set(options, curve, given)
        _score(inputs.dataset, inputs.output, options, curve, placement, reporting)
    for name in (field.name for field in fields(curve)):
        if name in given:
            raise OptionError(f"{{{name}}} is for a {{dataset}} of questions, and none is named.")
    check_read(options, given)
    run_files("attn.core.prune.run:run", inputs, options, placement, reporting)


def _score(
    dataset: str, output: str | None, options: PruneOptions, curve: CurveOptions, placement: Placement,
    reporting: Reporting,
) -> NoReturn:  # fmt: skip
    """Score methods on a set, which is one input, show the report, and leave with its exit code."""
    import typer

    from .show import show, watched

    arguments = {
        "dataset": dataset, "output": output, **asdict(options), **asdict(curve), **asdict(placement),
        "argv": sys.argv[1:],
    }  # fmt: skip

    def call(watch: Watcher) -> Report:
        from attn.core.prune.curves.run import run_set

        return run_set(dataset, output, options, curve, placement, watcher=watch, arguments=arguments)

    report = watched("prune", call, arguments, [dataset], reporting)
    show(report, reporting)
    raise typer.Exit(report.exit_code)


main = command(_main, methods="prune")
