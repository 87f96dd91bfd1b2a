"""Adversarial training of attention scores: methods/attention-at.md."""
