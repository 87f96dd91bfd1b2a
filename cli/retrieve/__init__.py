"""`attn retrieve`: one file per verb."""
