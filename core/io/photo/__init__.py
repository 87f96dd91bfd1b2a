"""Colour photos of any common kind."""
