"""`attn train fsgnet`."""
