#!/usr/bin/env bash
# How far the attention of a text classifier can be believed: one is trained with perturbed attention, one without, on
# drawn texts, and both are examined. About a minute on two CPU cores; nothing is downloaded. Usage: examples/text.sh [OUTPUT]
set -euo pipefail
out=${1:-text-example}

# 1. Reviews of drawn words, in which cues and negations decide; --data reviews.csv takes your own (text, label).
attn train attention-at --drawn 400 --epochs 6 --beside vanilla -o "$out/run"

# 2. Does attention point to what the answer hangs on? Does it matter where it points? Words in colour: words.html.
attn probe text "$out/run" generated --drawn 400 --compare "$out/run/vanilla" -o "$out" --report "$out/words.html"

# 3. The figure again, from what lies beside it.
attn probe redraw "$out/generated.text.json" --overwrite
