"""`attn train shapes-vlm`: the small vision-language model that ships with attn."""
