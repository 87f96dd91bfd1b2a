#!/usr/bin/env bash
# Tests of kernels with every access and race looked at, without a GPU: sanitise.sh [PYTEST ARGUMENTS]
# Makes an environment of Python 3.12 with ttsem (which pins other versions of torch and triton, and works with these)
# in the folder ATTN_SANITISER, by default .sanitiser of the checkout, and keeps it. Where that cannot be had it says
# NOT RUN and leaves with 0.
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"
place="${ATTN_SANITISER:-$root/.sanitiser}"
python=""
for candidate in "${ATTN_PYTHON312:-}" python3.12 "$HOME"/.pyenv/versions/3.12.*/bin/python; do
  if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; then
    python="$candidate"
    break
  fi
done
[ -n "$python" ] || [ -e "$place/ready" ] || { echo "NOT RUN: the sanitiser of kernels needs Python 3.12 (ATTN_PYTHON312=/path/to/python3.12)"; exit 0; }
if [ ! -e "$place/ready" ]; then
  rm -rf "$place"
  if ! { "$python" -m venv "$place" && . "$place/bin/activate" \
    && pip install -q torch==2.13.0 && pip install -q --no-deps ttsem==0.1.0 triton==3.9.0 \
    && pip install -q numpy hypothesis pytest pytest-timeout pytest-benchmark numba safetensors; } >"$place.log" 2>&1; then
    echo "NOT RUN: no environment with ttsem could be made; $place.log says why"
    exit 0
  fi
  touch "$place/ready"
fi
cd "$root"
exec "$place/bin/python" tests/kernels/sanitise.py "${@:-tests/kernels}"
