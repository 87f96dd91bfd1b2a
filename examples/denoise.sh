#!/usr/bin/env bash
# From one CT slice to a cleaned one, with pictures, a report and a kept filter. Half a minute on two CPU cores.
# The slice ships with pydicom, so nothing is downloaded. Usage: examples/denoise.sh [OUTPUT_DIRECTORY]
set -euo pipefail
out=${1:-denoise-example}
mkdir -p "$out"

# 1. The default: bilateral filters, mixed place by place by their estimated error. DICOM in, DICOM out.
#    example:ct-512 is a slice of full size, sixteen times as many pixels.
attn denoise example:ct -o "$out/clean.dcm" --maps --figure --save-filter "$out/head.safetensors" --overwrite

# 2. The kept filter again, without estimating anything: twice as strong in one rectangle, weaker elsewhere.
attn denoise example:ct -o "$out/edited.dcm" --filter "$out/head.safetensors" \
    --strength 0.7 --region 40,40,80,80=2 --overwrite

# 3. A published method, which trains on the slice itself, and one that leaves the grain of a full-dose scan.
attn denoise example:ct -o "$out/filter2noise.dcm" --method filter2noise --quality fast --overwrite
attn denoise example:ct -o "$out/grain.dcm" --preset full-dose --overwrite

# 4. For scripts: one JSON document on stdout, a report with pictures beside it.
attn denoise example:ct -o "$out/quick.dcm" --json --report "$out/report.html" --overwrite > "$out/report.json"
python -c 'import json, sys; print({k: round(v, 2) for k, v in json.load(open(sys.argv[1]))["items"][0]["metrics"].items()})' "$out/report.json"
