"""`attn train oat`."""
