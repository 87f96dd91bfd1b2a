"""Pruning of tokens in image classifiers and backbones: ViT, DeiT, DINOv2 and their kin."""
