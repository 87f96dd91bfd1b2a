"""`attn train ga-dms`."""
