"""Galleries, data sets and queries, as people have them."""
