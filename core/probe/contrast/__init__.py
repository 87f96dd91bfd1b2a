"""``attn probe contrast``: what a question draws attention to, beside what any question does (CARVE)."""
