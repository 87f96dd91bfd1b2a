#!/usr/bin/env bash
# What a classifier's answer hangs on: relevance, salient regions, and what the map is worth. A minute on two CPU cores.
# The model ships with attn and the pictures are drawn, so nothing is downloaded.
# Usage: examples/relevance.sh [OUTPUT_DIRECTORY]
set -euo pipefail
out=${1:-relevance-example}
mkdir -p "$out"

# 1. A drawn picture of the kind that the model knows, made with attn's own drawing.
python - "$out/ring.png" <<'PYTHON'
import sys

from PIL import Image

from attn.core.prune.shapes.labelled import labelled_set

scenes = labelled_set(60)
number = next(n for n in range(len(scenes)) if scenes.name(n).endswith("ring"))
Image.fromarray(scenes.pictures[number]).save(sys.argv[1])
PYTHON

# 2. Relevance for its class: figure, heat map, overlay, arrays, and one page with all of it.
attn probe relevance "$out/ring.png" -o "$out/" --overwrite --report "$out/report.html"

# 3. What speaks for another class, by the rules of the released code; without the checks, which take most of the time.
attn probe relevance "$out/ring.png" -o "$out/other/" --target "red star" --rules official --no-trust --overwrite

# 4. The figure again from its arrays, without the model; and how often the map points at the object.
attn probe redraw "$out/ring.relevance.json"
attn probe relevance shapesx10 -o "$out/" --json > "$out/shapes.json"
python -c 'import json, sys; print(json.load(open(sys.argv[1]))["items"][0]["metrics"])' "$out/shapes.json"
