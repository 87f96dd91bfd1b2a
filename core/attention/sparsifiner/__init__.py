"""Sparsifiner attention (methods/sparsifiner.md): a predictor chooses the keys of each query."""
