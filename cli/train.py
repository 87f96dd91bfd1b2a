"""`attn train`: one verb per recipe, imported when it is used."""

from __future__ import annotations

import typer

from .lazy import SETTINGS, LazyGroup
from .options import JsonOption, ListOption
from .say import say

VERBS: dict[str, tuple[str, str]] = {
    "fsgnet": ("attn.cli.train_fsgnet", "Train vessel segmentation on fundus photos with labels."),
    "ga-dms": ("attn.cli.train_ga_dms", "Train retrieval of people by sentence, on noisy captions."),
    "image-text-head": ("attn.cli.train_image_text_head", "Join the packaged ViT and text encoder on your own pairs."),
    "priorclip": ("attn.cli.train_priorclip", "Train retrieval of pictures from above by sentence."),
}
EXAMPLES = {
    "": (("attn train --list", "The recipes."),),
    "fsgnet": (
        ("attn train fsgnet --data DRIVE -o run/", "The default recipe; the same command resumes a killed run."),
        ("attn train fsgnet --data DRIVE -o plain/ --no-guided", "The ablation without guided filter and gates."),
        ("attn train fsgnet --data DRIVE -o halo/ --trunk halo", "The guided decoder on a halo-attention trunk."),
        ("attn segment photo.png --model run/model.safetensors", "Use what was trained."),
    ),
    "ga-dms": (
        ("attn train ga-dms -o run/", "Drawn people whose captions are wrong in a fifth of their words."),
        ("attn train ga-dms --data reid_raw.json --weights CLIP/ -o run/", "CUHK-PEDES from a CLIP folder."),
        ("attn retrieve index crops/ -o i --model run/model.safetensors", "Use what was trained."),
    ),
    "priorclip": (
        ("attn train priorclip -o run/", "Drawn scenes from above."),
        ("attn retrieve index tiles/ -o i --model run/model.safetensors", "Use what was trained."),
    ),
    "image-text-head": (
        ("attn train image-text-head --data captions.jsonl -o head/", "The penalty is chosen by cross-validation."),
        ("attn retrieve index photos/ -o i --model head/model.safetensors", "Use what was trained."),
    ),
}
FILES = (
    ("OUT/model.safetensors, OUT/model.md", "The best averaged weights, and what they are: the model card."),
    ("OUT/metrics.jsonl, OUT/curve.png", "One JSON line per evaluation, and a picture of loss and score."),
    ("OUT/checkpoint.pt, OUT/best.pt", "What a resumed run goes on from."),
)
NOTES = (
    "A run that is killed goes on from its last evaluation, as if it had not been killed; --steps may then differ.",
)


class _Train(LazyGroup):
    table = VERBS


app = typer.Typer(
    cls=_Train, help="Train models; every recipe resumes, streams its metrics and keeps its best weights.",
    invoke_without_command=True, **SETTINGS,
)  # fmt: skip


@app.callback()
def _train(ctx: typer.Context, list_: ListOption = False, as_json: JsonOption = False) -> None:
    """Train models; every recipe resumes, streams its metrics and keeps its best weights."""
    if list_:
        from .methods import list_methods

        list_methods("train", as_json=as_json)
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        say(ctx.get_help(), lines=True)
        raise typer.Exit
