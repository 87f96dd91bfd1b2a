"""Halo attention (methods/halonet.md): blocks of queries with a margin of keys around them."""
