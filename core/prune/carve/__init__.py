"""CARVE: what a question looks at, beside what any question looks at, cut out and magnified. Paper: arXiv 2509.06461.
Specification: methods/carve.md."""
