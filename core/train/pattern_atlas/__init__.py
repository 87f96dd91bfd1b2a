"""``attn train pattern-atlas``: the autoencoder of attention patterns (methods/vit-analytics.md, section 3.4)."""
