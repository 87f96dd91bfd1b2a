"""``attn probe icl --known``: circuits that are built, whose answers are known, against attn's own tools."""
