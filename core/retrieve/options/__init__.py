"""What `attn retrieve` can be told: the options of its verbs, each stated once. Nothing here imports torch."""
