"""`attn train moving-shapes`: a small model that makes videos, and what sparse attention does to them."""
