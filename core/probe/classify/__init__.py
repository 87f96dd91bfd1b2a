"""``attn probe classify``: what frozen features know of classes, by a ladder of probes."""
