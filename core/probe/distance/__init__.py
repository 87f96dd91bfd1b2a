"""``attn probe distance``: how widely a vision transformer attends in one domain of pictures, and in another."""
