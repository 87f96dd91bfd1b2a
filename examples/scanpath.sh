#!/usr/bin/env bash
# In which order would somebody who searches look at the objects of a picture? On drawn shelves, with the weights that ship
# and with a network of one's own; and two sets of paths compared. About a minute on two CPU cores; nothing is downloaded.
# Usage: examples/scanpath.sh [OUTPUT]
set -euo pipefail
out=${1:-scanpath-example}

# 1. A drawn shelf: numbered path, probabilities of each step, GIF. Your own picture: photo.jpg --boxes boxes.csv --target milk
attn probe scanpath shelf:1 -o "$out"

# 2. A network of one's own, far too short a run to be good.
attn train oat -o "$out/run" --scenes 200 --steps 120 --evaluate-every 60 --judged 10 --samples 10
attn probe scanpath shelf:1 --model "$out/run" -o "$out/own"

# 3. The paths of both, one set against the other; recordings of people go in the same way.
attn probe scanpath --metrics "$out/own/shelf-1.paths.jsonl" "$out/shelf-1.paths.jsonl" --report "$out/scores.csv"
