"""How a picture and a question become the input of a vision-language model."""
