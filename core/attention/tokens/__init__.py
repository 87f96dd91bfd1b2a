"""The engine of the operators that choose single keys: top-k selection, and attention over lists of tokens."""
