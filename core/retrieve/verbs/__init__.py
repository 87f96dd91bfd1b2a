"""What `attn retrieve` does: one file per verb."""
