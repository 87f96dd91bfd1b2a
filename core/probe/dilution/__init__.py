"""``attn probe dilution``: where does a language model look in a long context?"""
