"""How a picture is looked at: tokens of a vision-language model, patches of an image transformer, pixels."""
