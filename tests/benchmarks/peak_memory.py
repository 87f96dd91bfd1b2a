"""Peak memory of fitting and applying Filter2Noise to a slice, above the imported libraries, in a process of its own.

python tests/benchmarks/peak_memory.py [attn|unfold] [SIZE] [STEPS]     prints one JSON document
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def status_mb(field: str) -> float:
    """A field of /proc/self/status in MB; Linux only."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in {STATUS}")


def measure(which: str, size: int, steps: int) -> dict[str, float | str]:
    """Run in the child: import everything, note the memory, work, note the peak."""
    import torch

    from attn.core.denoise.base import FitOptions
    from attn.core.denoise.filter2noise import attention_cpu, bilateral_cpu, edges_cpu
    from attn.core.denoise.filter2noise.method import fit
    from attn.core.denoise.filter2noise.schedule import Filter2NoiseRecipe, OneCycleAdamW

    sys.path.insert(0, str(Path(__file__).parent))
    import unfold_reference as unfold

    _ = attention_cpu, bilateral_cpu, edges_cpu
    image = torch.rand(size, size, generator=torch.Generator().manual_seed(0)) * 0.3
    imported = status_mb("VmRSS")
    if which == "attn":
        fit(image, FitOptions(steps=steps, edge_weight=400.0))(image)
    else:
        model = unfold.UnfoldFilter2Noise()
        optimiser = OneCycleAdamW(model.parameters(), Filter2NoiseRecipe(max(2, steps), 1e-3))
        for _step in range(steps):
            optimiser.take_step(lambda: unfold.loss(model, image[None, None]))
    peak = status_mb("VmHWM")
    return {"which": which, "size": size, "steps": steps, "imported_mb": imported, "peak_above_mb": peak - imported}


def peak_above_mb(which: str = "attn", size: int = 512, steps: int = 3) -> dict[str, float | str]:
    """Measure in a fresh child process."""
    command = [sys.executable, __file__, "--child", which, str(size), str(steps)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float | str] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] == ["--child"]:
        print(json.dumps(measure(arguments[1], int(arguments[2]), int(arguments[3]))))
    else:
        which = arguments[0] if arguments else "attn"
        print(json.dumps(peak_above_mb(which, *(int(a) for a in arguments[1:3])), indent=2))
