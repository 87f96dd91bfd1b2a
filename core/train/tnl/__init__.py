"""`attn train tnl`."""
