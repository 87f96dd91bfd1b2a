"""`attn train codebook`."""
