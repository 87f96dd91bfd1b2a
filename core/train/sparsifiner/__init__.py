"""`attn train sparsifiner`."""
