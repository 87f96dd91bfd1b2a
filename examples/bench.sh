#!/usr/bin/env bash
# Attention operators measured side by side on this machine. A minute on two CPU cores, nothing is downloaded.
# Usage: examples/bench.sh [OUTPUT_DIRECTORY]
# Peak memory is left out (--no-memory), because it takes a process of its own for every row.
set -euo pipefail
out=${1:-bench-example}
mkdir -p "$out"

# 1. How time grows with length, and from where on each operator beats PyTorch's dense attention.
attn bench hip lightning window+sink --seq 1k..4k --no-memory --plot "$out/scaling.png" --report "$out/report.html"

# 2. Recall against cost: one operator at several budgets.
attn bench --seq 2k --sweep hip.mask_k=128,256,512 --baseline none --no-memory --plot "$out/recall.png"

# 3. For scripts: one JSON document. Which selection keeps most of the attention mass at 512 visited keys per query?
attn bench blocktopk window+sink hip --seq 2k --keys 512 --no-memory --json > "$out/budget.json"
python - "$out/budget.json" <<'PY'
import json, sys
for item in json.load(open(sys.argv[1]))["items"]:
    if recall := item["metrics"].get("mass_recall"):
        m = item["metrics"]
        print(f'{item["details"]["label"]:12} keys {m["keys_attended"] + m["keys_searched"]:6.0f}  recall {recall:.3f}')
PY

# 4. The Triton kernels behind them, compiled for a GPU that need not be here: registers, spills, instructions.
if python -c "import triton" 2>/dev/null; then
  attn bench --kernels --target sm_90 --report "$out/kernels.md"
fi
