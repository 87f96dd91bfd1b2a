"""The engine of the operators that choose whole blocks of keys: selections, tiles, forward and backward passes."""
