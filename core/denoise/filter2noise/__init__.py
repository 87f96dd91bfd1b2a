"""Filter2Noise (methods/filter2noise.md): an attention-guided bilateral filter, fitted on the image itself."""
