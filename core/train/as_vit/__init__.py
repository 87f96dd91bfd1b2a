"""`attn train as-vit`."""
