"""`attn train focusft`."""
