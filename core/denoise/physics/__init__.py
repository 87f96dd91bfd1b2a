"""Image quality as a physicist measures it: noise power, edge response, detectability, and what was taken away."""
