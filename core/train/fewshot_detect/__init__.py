"""``attn train fewshot-detect``: a detector moved to another domain from a handful of pictures."""
