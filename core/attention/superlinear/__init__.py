"""Superlinear attention (methods/superlinear.md): a comb of anchors, then spans at the best of them."""
