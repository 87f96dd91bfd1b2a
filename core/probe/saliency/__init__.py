"""What each generated token stands on: attention times gradient, and two ways to decode by it.

Paper: "Hallucination Begins Where Saliency Drops", ICLR 2026, arXiv 2601.20279. Specification:
methods/lvlms-saliency.md.
"""
