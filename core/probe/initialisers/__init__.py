"""``attn probe initialisers``: which start values train a plain convolutional network fastest."""
