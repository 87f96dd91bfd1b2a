"""`attn train biformer` and `attn train halonet`: a small backbone beside plain ViTs of equal size and cost."""
