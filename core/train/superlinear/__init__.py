"""`attn train superlinear`."""
