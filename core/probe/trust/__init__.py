"""Whether a map can be believed: checks that hold it against chance, and against models that learned nothing.

methods/probe-peers.md, section 5, item 2. Every map of every kind carries a ``Trust`` section made of these lines.
"""
