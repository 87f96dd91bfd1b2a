"""`attn train priorclip`."""
