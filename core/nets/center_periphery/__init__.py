"""Centre-periphery refinement of feature maps: prototypes, PPR, NCM, TSA (arXiv 2603.18541).

No official code was found: all of it is written from notes on the paper, methods/astigmatism.md, sections 3.2 to 3.6.
"""
