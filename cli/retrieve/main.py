"""`attn retrieve`: one verb per step, imported when it is used."""

from __future__ import annotations

import typer

from ..lazy import SETTINGS, LazyGroup
from ..options import JsonOption, ListOption
from ..say import say

VERBS: dict[str, tuple[str, str]] = {
    "index": ("attn.cli.retrieve.index", "Embed a gallery of images or texts; again: only what changed."),
    "search": ("attn.cli.retrieve.search", "Find what a sentence, a photo or a file of queries asks for."),
    "similar": ("attn.cli.retrieve.similar", "Find entries most like entries of the index; no model is loaded."),
    "serve": ("attn.cli.retrieve.serve", "Keep index and model open: a page, JSON, and search --server at once."),
    "dedup": ("attn.cli.retrieve.dedup", "Group near duplicates; nothing is removed."),
    "curate": ("attn.cli.retrieve.curate", "Make training pairs of person photos: filter, describe, write captions."),
    "eval": ("attn.cli.retrieve.eval", "Score a model on a data set with judgements."),
    "tune-temperature": ("attn.cli.retrieve.tune", "Choose the attention temperature on one half of the queries."),
    "info": ("attn.cli.retrieve.info", "Say what an index holds and which model made it."),
    "export": ("attn.cli.retrieve.export", "Write an index as Parquet, NumPy arrays, or another store."),
    "compact": ("attn.cli.retrieve.compact", "Give back the room of deleted entries."),
}
EXAMPLES = {
    "": (("attn retrieve --list", "The methods and models."),),
    "index": (
        ("attn retrieve index notes/ -o notes.index", "A folder of texts, with the packaged text encoder."),
        ("attn retrieve index photos/ -o photos.index", "A folder of images, with the packaged vit-minilm."),
        ("attn retrieve index photos/ -o clip.index --model clip-folder/", "The same with a local CLIP."),
        ("attn retrieve index cranfield/ -o c.index --temperature 0.9", "A BEIR corpus; queries need the same T."),
        ("attn retrieve index photos/", "The same again, into photos.index: only new and changed files are embedded."),
        ("attn retrieve index notes/ -o s3://bucket/notes", "In object storage, as AWS_* in the environment say."),
    ),
    "search": (
        ('attn retrieve search photos.index "a bear on grass"', "A table of the ten best."),
        ("attn retrieve search photos.index --image query.jpg --sheet hits.html", "By example, with a contact sheet."),
        ('attn retrieve search photos.index "a bear" "a bus" --top 4 --sheet hits.jpg', "And as one picture."),
        ("attn retrieve search c.index --queries queries.jsonl --format trec --top 1000", "A TREC run on stdout."),
        ('attn retrieve search --server http://127.0.0.1:8765 "a bear"', "Of a running `attn retrieve serve`."),
        ("attn retrieve search notes.index 'heat' --where \"path LIKE '%2026%'\"", "Only some of the entries."),
    ),
    "similar": (
        ("attn retrieve similar photos.index bear.jpg --top 5", "The five photos most like one of the index."),
        ("attn retrieve similar photos.index photos/bear.jpg --sheet like.html", "By its path, with a contact sheet."),
        ("attn retrieve similar c.index 184 29 --format trec", "Of two documents, as a TREC run."),
    ),
    "serve": (
        ("attn retrieve serve photos.index", "A page with a search box at http://127.0.0.1:8765/, and JSON."),
        ("curl -s 'http://127.0.0.1:8765/search?text=a+bear&k=5'", "The five best, as JSON."),
        ("curl -s --data-binary @a.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8765/similar", "By a photo."),
    ),
    "dedup": (
        ("attn retrieve dedup photos.index", "Groups of near duplicates, with their cosine to the one that is kept."),
        ("attn retrieve dedup photos.index --threshold 0.98 --sheet groups.html", "Stricter, and to look at."),
        ("attn retrieve dedup photos.index --format paths0 | xargs -0 -n1 echo", "The paths of the extra copies."),
    ),
    "curate": (
        ("attn retrieve curate crops/ -o pairs/", "Filter only: what would stay, and why the rest would not."),
        ("attn retrieve curate crops/ -o pairs/ -c vlm-folder/", "Describe crops with a vision-language model."),
        ("attn retrieve curate photos/ -o pairs/ --boxes persons.jsonl -c vlm-folder/", "Of a detector's boxes."),
        (
            "attn retrieve curate crops/ -o pairs/ -c mine:describe --fill words",
            "A function in mine.py.",
        ),
        ("attn train ga-dms --data pairs/captions.jsonl -o run/", "What the pairs are for."),
    ),
    "eval": (
        ("attn retrieve eval cranfield/", "nDCG@10, recall, MAP, MRR of the packaged text encoder."),
        ("attn retrieve eval cranfield/ --temperature 1,0.9,0.8", "One row per temperature, with intervals."),
        ("attn retrieve eval image_text/ --model clip-folder/", "R@1/5/10 in both directions and their mean."),
        ("attn retrieve eval cranfield/ --diagnose", "And how embeddings crowd together as texts grow longer."),
    ),
    "tune-temperature": (("attn retrieve tune-temperature cranfield/", "The best T of one half, tried on the other."),),
    "info": (("attn retrieve info notes.index --json", "Model, temperature, number of entries, sizes."),),
    "export": (
        ("attn retrieve export photos.index -o photos.parquet", "For pandas, DuckDB, Polars; the model in the schema."),
        ("attn retrieve export photos.index -o photos.npz", 'numpy.load("photos.npz")["vectors"].'),
        ("attn retrieve export photos.index -o big.index --to lance", "A Lance table, searched as the original is."),
        ("attn retrieve export photos.index -o qdrant://localhost:6333/photos", "A collection on a server."),
    ),
    "compact": (("attn retrieve compact photos.index", "Sizes before and after."),),
}
FILES = (
    ("INDEX/", "A folder: vectors, metadata, and a header that names model, weights and temperature."),
    (
        "OUT/captions.jsonl",
        "Of curate: {image, captions, split}, images as seen from OUT.",
    ),
    ("OUT/crops.jsonl", "Of curate: every crop, what was measured, and why it was left out."),
    (
        "OUT/templates.txt, OUT/answers.jsonl",
        "Of curate: templates, to be edited; what was said of crops.",
    ),
    ("INDEX/.parts/", "Finished blocks of a run that was killed; the next run takes them over."),
)
NOTES = (
    "Embeddings of different models, weights or temperatures cannot be compared: an index refuses queries of another "
    "one and names both.",
    "Data sets of persons are for research only, and privacy-sensitive; read their terms.",
)


class _Retrieve(LazyGroup):
    table = VERBS


app = typer.Typer(
    cls=_Retrieve, help="Find images and texts by meaning: index, search, evaluate.", invoke_without_command=True,
    **SETTINGS,
)  # fmt: skip


@app.callback()
def _retrieve(ctx: typer.Context, list_: ListOption = False, as_json: JsonOption = False) -> None:
    """Find images and texts by meaning: index, search, evaluate."""
    if list_:
        from ..methods import list_methods

        list_methods("retrieve", as_json=as_json)
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        say(ctx.get_help(), lines=True)
        raise typer.Exit
