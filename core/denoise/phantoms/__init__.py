"""Random CT phantoms whose truth has no noise: what `attn denoise phantom:KIND` reads, and evaluations draw."""
