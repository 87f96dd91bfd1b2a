"""`attn prune --dataset`: accuracy and fidelity of several methods against the share of tokens that they keep."""
