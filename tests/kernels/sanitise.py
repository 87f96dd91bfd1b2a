"""Runs tests of kernels with every launch checked: an access outside a tensor or a race between programs fails it.

    python tests/kernels/sanitise.py [PYTEST ARGUMENTS]

ttsem executes the code that Triton's compiler makes, on the CPU, so bfloat16 is right here (the interpreter's products
of it are not). It needs Python 3.12; ``sanitise.sh`` makes an environment for it.
"""

from __future__ import annotations

import os
import sys

for name in ("TRITON_INTERPRET",):  # before triton is imported
    os.environ.pop(name, None)


def main(arguments: list[str]) -> int:
    """The exit code of pytest, of which everything ran inside the sanitiser."""
    import pytest
    from ttsem.sanitize import session

    with session(cuda_is_cpu=False) as state:
        code = int(pytest.main(["-m", "interpret", "-p", "no:cacheprovider", *arguments]))
    print(f"sanitiser: {state.launches} launches, {state.races_unchecked} too long to be checked for races")
    if not state.launches:
        print("sanitiser: no kernel was launched: nothing was checked")
        return code or 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["tests/kernels", "-q"]))
