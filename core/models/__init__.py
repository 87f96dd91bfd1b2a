"""Other people's models: loading, families, tokens, image preparation."""
