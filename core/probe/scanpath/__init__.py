"""`attn probe scanpath`: in which order a person who searches looks at the objects of a picture."""
