"""A mixture of bilateral filters, chosen place by place by estimated risk: methods/adaptive-denoise.md. Ours."""
