#!/usr/bin/env bash
# What a frozen encoder knows of your classes: a ladder of probes on drawn pictures, and where a probe's queries look.
# Under two minutes on two CPU cores; nothing is downloaded. Usage: examples/classify.sh [OUTPUT_DIRECTORY]
set -euo pipefail
out=${1:-classify-example}
mkdir -p "$out"

# 1. Six shapes, the small encoder that comes with attn: k-NN, linear, mean patch, efficient probing; figures, heads and
#    one page. --model vit (with attn[vit]) or a folder takes a real one, and your own folder of class folders.
attn probe classify shapesx240 -o "$out" --epochs 30 --warmup 4 --seeds 2 --report "$out/report.html" --overwrite

# 2. Every block, from few pictures too; the features that are there already are not read again.
attn probe classify shapesx240 -o "$out/layers" --layer all --shots 5 --poolings knn,gap --no-trust --epochs 30 \
    --warmup 4 --seeds 2 --json --overwrite > "$out/layers.json"
python -c 'import json, sys; print(*json.load(open(sys.argv[1]))["summary"]["layers"], sep="\n")' "$out/layers.json"

# 3. The figure again from its arrays and facts, without the model.
attn probe redraw "$out/shapesx240.queries.json" -o "$out/again.png"
