"""What each part of PriorCLIP and PIR does on synthetic scenes: the same pictures, steps and seeds, one part changed.

``python tests/benchmarks/priorclip_synthetic.py OUT [--table parts|pir|open] [--steps 300] [--seeds 1,2,3]
[--threads 1]`` trains every variant of a table once per seed (runs in OUT that are finished are read, not repeated) and
prints it as Markdown, in percent on 240 test pictures with five captions each; mean and standard deviation over the
seeds. Each seed draws pictures of its own, the same for all variants of a table.

``parts``: PriorCLIP's, R@1, 5, 10 in both directions and mR, and the mean belief of patches that show objects and of
those that show background. ``pir``: the same of the closed-domain variant, its trunks alone among it. ``open``: mR, and
R@1 of texts, on the scenes and words of the fine captions, on the same pictures with other words, and on other scenes.

Without stage 1 its steps go to stage 2, so all variants take the same number. Stage 0, the scene classifier, stands for
a network that is there already; its steps come on top where there is an instruction.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

from attn.core.bundles import Compute
from attn.core.train.priorclip.options import PriorCLIPOptions
from attn.core.train.priorclip.run import plain_options, train_priorclip

FULL = PriorCLIPOptions(Path("run"))
PIR = PriorCLIPOptions(Path("run"), variant="pir", learning_rate=1e-3)
OPEN = PriorCLIPOptions(Path("run"), data="synthetic-open")
PARTS = {
    "PriorCLIP, gate rank": FULL,
    "gate released": replace(FULL, gate="released"),
    "gate weighted": replace(FULL, gate="weighted"),
    "gate none": replace(FULL, gate="none"),
    "no instruction": replace(FULL, instruction=False),
    "no affiliation loss": replace(FULL, center_factor=0.0),
    "affiliation by class": replace(FULL, affiliation_targets="class"),
    "no stage 1": replace(FULL, coarse_steps=0),
    "plain CLIP: none of them": plain_options(FULL),
}
CLOSED = {
    "PIR": PIR,
    "its trunks alone": plain_options(PIR),
    "no rounds over the words (Temporal-PAE)": replace(PIR, cycle_num=0),
    "no affiliation loss": replace(PIR, center_factor=0.0),
}
UNKNOWN = {
    "no stage 1": replace(OPEN, coarse_steps=0),
    "stage 1 on coarse pairs of all scenes": OPEN,
    "stage 1 on the fine pictures, scene names": replace(OPEN, coarse_data="same"),
    "plain CLIP, no stage 1": plain_options(OPEN),
    "plain CLIP, stage 1 on coarse pairs of all scenes": replace(plain_options(OPEN), coarse_steps=OPEN.stage1),
}
RECALLS = ("i2t_r@1", "i2t_r@5", "i2t_r@10", "t2i_r@1", "t2i_r@5", "t2i_r@10", "mr")
BELIEFS = ("belief_object", "belief_background")
TESTED = ("mr", "t2i_r@1", "synonyms_mr", "synonyms_t2i_r@1", "unseen_mr", "unseen_t2i_r@1")
TABLES = {"parts": (PARTS, RECALLS), "pir": (CLOSED, RECALLS), "open": (UNKNOWN, TESTED)}
"""Variants and percentages of each table."""


def spread(values: list[float], digits: int) -> str:
    """Mean ± standard deviation; of one run its value alone, a dash where there is nothing."""
    if not values:
        return "–"
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--table", choices=list(TABLES), default="parts")
    parser.add_argument("--steps", type=int, default=FULL.steps)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--read-only", action="store_true", help="Print what is finished; train nothing.")
    arguments = parser.parse_args()
    variants, columns = TABLES[arguments.table]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for seed in (int(part) for part in arguments.seeds.split(",")):
        for index, (name, options) in enumerate(variants.items()):
            folder = arguments.output / arguments.table / f"{index}-{seed}"
            done = folder / "report.json"
            if not done.exists():
                if arguments.read_only:
                    continue
                compute = Compute(device="cpu", seed=seed, threads=arguments.threads)
                report = train_priorclip(replace(options, output=folder, steps=arguments.steps, compute=compute))
                done.write_text(json.dumps(dict(report.items[0].metrics) | {"seconds": report.seconds}))
            found[name].append(json.loads(done.read_text()))
    print("| variant | runs | " + " | ".join([*columns, *BELIEFS]) + " |")
    print("|---" * (len(columns) + len(BELIEFS) + 2) + "|")
    for name, rows in found.items():
        cells = [spread([100 * row[key] for row in rows], 1) for key in columns]
        cells += [spread([row[key] for row in rows if key in row], 3) for key in BELIEFS]
        print(f"| {name} | {len(rows)} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
