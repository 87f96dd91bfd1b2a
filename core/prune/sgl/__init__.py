"""A small model of the same family says which visual tokens a large one can do without."""
