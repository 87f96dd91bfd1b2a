"""Operators with a lightning indexer: dsa (flat) and hisa (hierarchical; methods/hisa.md)."""
