"""`attn probe codebook`: what the codes of an agent's bottleneck are used for."""
