#!/usr/bin/env bash
# Which heads of a vision transformer matter, how far they look, and what patterns they follow: the model that comes with
# attn, on drawn pictures. Under two minutes on two CPU cores; nothing is downloaded. Usage: examples/heads.sh [OUTPUT]
set -euo pipefail
out=${1:-heads-example}

# 1. Twelve drawn pictures: a figure each, and heads.vit.png of all of them; with --model vit your own photos.
attn probe vit shapesx12 -o "$out" --report "$out/report.html" --overwrite

# 2. The figure again, from what lies beside it: no model, no picture.
attn probe redraw "$out/heads.vit.json" --overwrite

# 3. Ranked by the feature of the class token, with a head's mean in its place; the classes are those of the folders.
attn probe vit "$out/pictures" -o "$out/mean" --ablate mean --target label --ranking cos --points 0 --no-trust \
    --json --overwrite > "$out/mean.json"
python -c 'import json, sys
heads = json.load(open(sys.argv[1]))["summary"]["heads"]
print([(row["layer"], row["head"], row["name"]) for row in sorted(heads, key=lambda row: row["rank"])[:3]])' \
    "$out/mean.json"
