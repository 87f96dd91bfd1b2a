"""Attention without the trend over positions and without padding, before tokens are chosen by it."""
