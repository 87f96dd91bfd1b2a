"""`attn train image-text-head`."""
