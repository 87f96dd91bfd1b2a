"""Bi-level routing attention (methods/biformer.md): regions, the chosen ones, attention inside them."""
