"""HiP (methods/hip.md): a tree search for the keys of each query block, then attention over them."""
