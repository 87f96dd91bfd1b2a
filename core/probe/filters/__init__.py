"""``attn probe filters``: what the convolution filters of a model are like, from its weights and on pictures."""
