"""TIFF: which samples mean what, and segments that unpack only to their place."""
