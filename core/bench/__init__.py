"""`attn bench`: attention operators measured side by side (methods/attention-bench.md)."""

GENERATOR_NAMES = ("gaussian", "lowrank", "topic", "needle", "needle-smooth", "video", "worst", "structured")
"""The synthetic inputs, for completion and help without torch; ``inputs.GENERATORS`` is made of their functions."""
