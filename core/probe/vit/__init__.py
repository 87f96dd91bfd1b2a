"""``attn probe vit``: which heads of a vision transformer matter, how far they look, and what patterns they learn."""
