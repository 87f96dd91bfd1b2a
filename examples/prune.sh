#!/usr/bin/env bash
# Which visual tokens a model can do without: a drawn scene, the small model that comes with attn, several methods.
# Half a minute on two CPU cores; nothing is downloaded. Usage: examples/prune.sh [OUTPUT_DIRECTORY]
set -euo pipefail
out=${1:-prune-example}
mkdir -p "$out"

# 0. A picture that the embedded model can answer about; with --model your own LLaVA, Qwen2-VL, SmolVLM or InternVL
#    takes your own photos.
python - "$out/scene.png" <<'PYTHON'
import sys

from attn.core.prune.shapes.sets import evaluation_set
from PIL import Image

Image.fromarray(evaluation_set("colour", 8, seed=2).pictures[0]).save(sys.argv[1])
PYTHON

# 1. A quarter of the 144 visual tokens: the answer before and after, and the picture with what was kept.
attn prune "$out/scene.png" -o "$out" --prompt "what colour is the star" --overwrite

# 2. Methods side by side at the same counted budget, 40 % of all tokens over all layers: one table, one figure, one
#    page; and a folder from which the first of them can be run again.
attn prune "$out/scene.png" -o "$out" --prompt "what colour is the star" --keep 40% --repeat 1 \
    --method fastv --compare random,visionzip,divprune --save "$out/fastv" --report "$out/report.html" --overwrite

# 3. Again from that folder, as JSON.
attn prune "$out/scene.png" -o "$out/again.png" --prompt "what colour is the star" --saved "$out/fastv" --repeat 0 \
    --json --overwrite > "$out/again.json"
python -c 'import json, sys; print(json.load(open(sys.argv[1]))["items"][0]["details"]["answers"])' "$out/again.json"
