"""`attn train igpo`: policy optimisation of masked diffusion language models, guided by inpainted hints."""
