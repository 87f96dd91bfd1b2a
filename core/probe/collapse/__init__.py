"""``attn probe collapse``: do the vectors of long texts crowd together, and what does the temperature do to that?"""
