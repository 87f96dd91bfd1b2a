"""GA-DMS: a CLIP dual encoder for finding people by sentences, trained with gradient-attention guided masking."""
