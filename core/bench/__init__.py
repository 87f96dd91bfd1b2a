"""`attn bench`: attention operators measured side by side (methods/attention-bench.md)."""
