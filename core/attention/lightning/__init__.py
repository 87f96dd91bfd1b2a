"""Lightning attention (methods/lightning.md): linear attention with decay, block by block."""
