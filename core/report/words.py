"""What metrics are called for people: words, unit, and whether they were measured or set.

JSON and CSV have the stable names of DESIGN.md, section 2; pages and their tables have these words. A name that is not
here is shown with blanks for its underscores, and the unit that its end says.
"""

from __future__ import annotations

import re

WORDS: dict[str, tuple[str, str]] = {
    # denoise
    "psnr": ("PSNR after", "dB"), "psnr_noisy": ("PSNR before", "dB"),
    "ssim": ("SSIM after", ""), "ssim_noisy": ("SSIM before", ""),
    "rmse_hu": ("RMS error after", "HU"), "rmse_hu_noisy": ("RMS error before", "HU"),
    "rmse": ("RMS error after", ""), "rmse_noisy": ("RMS error before", ""),
    "noise_std_before": ("Noise before (SD)", ""), "noise_std_after": ("Noise after (SD)", ""),
    "neighbours": ("Neighbouring slices used", ""), "from_neighbours": ("Weight from neighbours (share)", ""),
    "removed_std": ("Removed (SD)", ""), "noise_sd": ("Noise (SD)", ""),
    "peak_per_mm": ("Peak", "cycles/mm"), "mean_per_mm": ("Mean", "cycles/mm"),
    "peak_per_px": ("Peak", "cycles/px"), "mean_per_px": ("Mean", "cycles/px"),
    "region_px": ("Region", "px"),
    "noise_frequency_kept": ("Mean frequency of the noise, after / before", ""),
    "removed_edge_correlation": ("Removed, correlation with edges (noise: 0)", ""),
    "contrast_kept": ("Low contrast kept (share)", ""), "f50_kept": ("Resolution (f50) of rods, after / truth", ""),
    "contrast_truth_hu": ("True contrast", "HU"), "contrast_before_hu": ("before", ""),
    "contrast_after_hu": ("after", ""), "contrast_hu": ("Contrast", "HU"), "radius_mm": ("Radius", "mm"),
    "error_before_hu": ("±", ""), "error_after_hu": ("±", ""),
    "cnr_before": ("CNR before", ""), "cnr_after": ("CNR after", ""),
    "d_prime_before": ("d' before", ""), "d_prime_after": ("d' after", ""),
    "f50_truth_per_mm": ("f50 truth", ""), "f50_before_per_mm": ("f50 before", ""),
    "f50_after_per_mm": ("f50 after", ""), "f10_truth_per_mm": ("f10 truth", ""),
    "f10_before_per_mm": ("f10 before", ""), "f10_after_per_mm": ("f10 after", ""),
    "fit_seconds": ("Time to fit", "s"), "apply_seconds": ("Time to apply", "s"), "seconds": ("Time", "s"),
    "parameters": ("Parameters of the model", ""), "steps": ("Steps of the fit", ""),
    # prune
    "tokens_before": ("Visual tokens before", ""), "tokens_after": ("Visual tokens after", ""),
    "mean_retention": ("Visual tokens left, mean over layers (share)", ""),
    "multiply_adds_before": ("Multiply-adds before", ""), "multiply_adds_after": ("Multiply-adds after", ""),
    "flops_ratio": ("Multiply-adds, after / before", ""), "class_token_cosine": ("Class token, cosine with before", ""),
    "forward_seconds_before": ("Forward pass before", "s"), "forward_seconds_after": ("Forward pass after", "s"),
    "pixels_kept": ("Pixels kept (share)", ""), "passes": ("Passes of the model", ""),
    "kv_bytes_before": ("Cache of keys and values before", "bytes"),
    "kv_bytes_after": ("Cache of keys and values after", "bytes"),
    "prefill_seconds_before": ("Prefill before", "s"), "prefill_seconds_after": ("Prefill after", "s"),
    "decode_seconds_before": ("Each further token before", "s"),
    "decode_seconds_after": ("Each further token after", "s"), "scoring_seconds": ("Choice of the tokens", "s"),
    "logit_kl": ("KL divergence of the first token", "nats"), "top1_agreement": ("Same first token (1: yes)", ""),
    "answers_equal": ("Same answer (1: yes)", ""), "attention_mass": ("Attention to the picture kept (share)", ""),
    # segment
    "vessel_density": ("Vessel density (share of the field of view)", ""),
    "skeleton_length_px": ("Length of the vessels", "px"), "branch_points": ("Branch points", ""),
    "end_points": ("End points", ""), "segments": ("Vessel segments", ""),
    "mean_calibre_px": ("Mean vessel calibre", "px"), "tortuosity": ("Tortuosity (arc / chord)", ""),
    "fractal_dimension": ("Fractal dimension", ""), "fov_diameter_px": ("Diameter of the field of view", "px"),
    "scaled_diameter_px": ("Diameter of the field of view as the model saw it", "px"),
    "threshold": ("Threshold", ""), "f1": ("F1 (Dice)", ""), "miou": ("Mean IoU", ""), "auc": ("AUC", ""),
    "mcc": ("Matthews correlation", ""), "cldice": ("clDice", ""),
    # retrieve
    "mr": ("Mean recall", "%"), "minp": ("mINP", ""), "map": ("mAP", ""),
    # bench
    "seq_len": ("Sequence length", "tokens"), "median_ms": ("Median time", "ms"), "min_ms": ("Shortest time", "ms"),
    "max_ms": ("Longest time", "ms"), "cpu_ms": ("Processor time", "ms"), "cold_ms": ("First call", "ms"),
    "gflops_useful": ("Useful rate", "GFLOP/s"), "gflops_executed": ("Executed rate", "GFLOP/s"),
    "ceiling_share": ("Share of the machine's ceiling", ""), "peak_bytes": ("Peak memory", "bytes"),
}  # fmt: skip
"""Name -> words and unit. Those of what differs from file to file (the unit of the pixels) have none."""
SETTINGS = frozenset(
    {
        "parameters",
        "steps",
        "threshold",
        "scaled_diameter_px",
        "seq_len",
        "temperature",
        "penalty",
        "dim",
        "runs",
        "memory_bound",
    }
)
"""What was chosen, not measured: means of these say nothing."""
_UNITS = {"px": "px", "ms": "ms", "seconds": "s", "hu": "HU", "bytes": "bytes", "mm": "mm"}
_IN_PIXELS = frozenset({"noise_sd", "noise_std_before", "noise_std_after", "removed_std", "rmse", "rmse_noisy"})
"""Measured in the unit of the pixels."""


def in_words(name: str, unit: str = "") -> str:
    """``"mean_calibre_px"`` -> ``"Mean vessel calibre, px"``; ``unit`` is that of the pixels, where it is known."""
    words, own = WORDS.get(name) or _guess(name)
    if name in _IN_PIXELS and unit != "stored":
        own = unit
    return f"{words}, {own}" if own else words


def _guess(name: str) -> tuple[str, str]:
    if not re.fullmatch(r"[a-z0-9_@]+", name):
        return name, ""
    head, _, end = name.rpartition("_")
    return (head.replace("_", " "), _UNITS[end]) if head and end in _UNITS else (name.replace("_", " "), "")
