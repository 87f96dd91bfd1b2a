"""Pairs of person crops and captions from a user's own photos: the data pipeline of methods/ga-dms.md, section 6."""
