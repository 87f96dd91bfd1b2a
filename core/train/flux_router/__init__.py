"""`attn train flux-router`."""
