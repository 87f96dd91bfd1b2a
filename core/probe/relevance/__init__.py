"""Relevance maps of convolutional classifiers: layer-wise relevance propagation, and the salient regions of its map.

Paper: "Beyond saliency: understanding convolutional neural networks from saliency prediction on layer-wise relevance
propagation", arXiv 1712.08268. Specification: methods/salient-relevance.md.
"""
