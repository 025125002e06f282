"""Two recipes: sharcs+ and the paper's."""
