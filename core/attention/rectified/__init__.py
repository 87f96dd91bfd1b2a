"""Rectified block-sparse attention for video (methods/rectified-spaattn.md)."""
