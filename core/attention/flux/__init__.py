"""Flux attention (methods/flux-attention.md): a router sends a layer to full or to sparse attention."""
