"""Denoisers of well-kept libraries under our command."""
