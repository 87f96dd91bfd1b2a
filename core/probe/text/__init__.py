"""How far the attention of a text classifier can be believed: methods/attention-at.md, section 3.6."""
