"""Encoders: texts and images to unit vectors. ``load.py`` is the one door."""
