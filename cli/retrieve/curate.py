"""`attn retrieve curate`: parse, call core, show."""

from __future__ import annotations

from attn.core.bundles import Placement, Reporting
from attn.core.retrieve.options.curate import CuratedPhotos, CurateOptions

from ..build import command


def _main(photos: CuratedPhotos, reporting: Reporting, options: CurateOptions, placement: Placement) -> None:
    """Make training pairs of person photos: filter crops, describe them, write captions by templates.

    The data pipeline of GA-DMS. A photo is a crop of one person, or --boxes says where persons are. Crops that are
    small, of another shape than a person, blurred, uncertain or nearly the same as another are left out, each told
    with what was measured. A model on this machine or a function of yours describes the others; the descriptions
    become templates, which are clustered (--model embeds them), and of each cluster the central and some random ones
    stay; each crop gets captions by templates drawn at random. OUT/captions.jsonl is what `attn train ga-dms --data`
    reads.

    The same command again asks only about photos that are new or have changed, and keeps OUT/templates.txt, which may
    be edited meanwhile; --overwrite begins anew. A run that was killed goes on where it was.

    A function MODULE:FUNCTION takes a picture (Pillow) and a template: "" asks for a description in its own words,
    another text for that sentence with words in the place of its brackets. It returns the caption.
    """
    from ..show import run_files

    run_files("attn.core.retrieve.verbs.curate:curate", photos, options, placement, reporting)


main = command(_main)
