"""`attn bench --model`: what an operator does to a whole language model, beside what it takes."""
