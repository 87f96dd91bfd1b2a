"""Snippets of film reviews with the sentiment that people gave them, as a CSV for `attn train attention-at`.

The source archive of vaderSentiment 0.5 (MIT licence, 2.4 MB) holds them: C. J. Hutto and E. Gilbert, "VADER: A
Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014. 10605 snippets, each with the
mean of twenty ratings from -4 to 4. The archive is read, nothing in it is run::

    pip download --no-deps --no-binary :all: vaderSentiment==0.5
    python tests/benchmarks/movie_snippets.py vaderSentiment-0.5.zip snippets.csv
"""

from __future__ import annotations

import argparse
import io
import tarfile
import zipfile
from pathlib import Path

from attn.core.io.atomic import write_text
from attn.core.text import csv_text

INSIDE = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
CLEAR = 0.5
"""Snippets whose mean rating is nearer to 0 are neither; they are left out."""


def snippets(archive: Path) -> list[tuple[str, str]]:
    """Text and label (negative, positive) of each snippet that is clearly one of them."""
    with zipfile.ZipFile(archive) as outer, tarfile.open(fileobj=io.BytesIO(outer.read(INSIDE))) as inner:
        file = inner.extractfile(FILE)
        assert file is not None
        lines = file.read().decode("utf-8").splitlines()
    found = []
    for line in lines:
        _, rating, text = line.split("\t")
        if abs(float(rating)) >= CLEAR:
            found.append((text, "positive" if float(rating) > 0 else "negative"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("csv", type=Path)
    given = parser.parse_args()
    found = snippets(given.archive)
    write_text(given.csv, csv_text([("text", "label"), *found], line_end="\n"))
    positive = sum(label == "positive" for _, label in found)
    print(f"{len(found)} snippets, {positive} positive")


if __name__ == "__main__":
    main()
