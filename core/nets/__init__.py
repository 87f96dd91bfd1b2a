"""Networks made of the attention operators."""
