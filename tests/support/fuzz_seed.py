"""The seed of all damaged files: a new one each day, printed; ``ATTN_FUZZ_SEED`` repeats another day's."""

import os
from datetime import UTC, datetime

VARIABLE = "ATTN_FUZZ_SEED"
SEED = int(os.environ.setdefault(VARIABLE, f"{datetime.now(UTC):%Y%m%d}"))  # set: workers started later share it
LINE = f"damaged files are drawn with {VARIABLE}={SEED}"
