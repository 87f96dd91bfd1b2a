"""``attn probe icl``: what softmax attention learns on linear regression in its context, against theory."""
