"""One function over many files: here, in several processes, or on a cluster."""
