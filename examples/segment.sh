#!/usr/bin/env bash
# From a fundus photo to its vessels, their measures and a report. Half a minute on two CPU cores.
# The photo ships with scikit-image, so nothing is downloaded. Usage: examples/segment.sh [OUTPUT_DIRECTORY]
set -euo pipefail
out=${1:-segment-example}
mkdir -p "$out"

# 1. The default model: mask, 16-bit probability and overlay; --measure adds a row to vessels.csv.
attn segment example:retina -o "$out/" --measure --overwrite
cat "$out/vessels.csv"

# 2. A ridge filter with a threshold of your own, and a name for the mask; no weights are needed.
attn segment example:retina -o "$out/thin.png" --model sato --threshold 0.4 --overwrite

# 3. For scripts: models side by side, one JSON document on stdout, a report with pictures beside it.
attn segment example:retina -o "$out/compared/" --compare frangi,sato --overwrite \
    --json --report "$out/report.html" > "$out/report.json"
python -c 'import json, sys; [print(row["method"], round(row["vessel_density"], 3)) for row in json.load(open(sys.argv[1]))["summary"]["comparison"]]' "$out/report.json"
