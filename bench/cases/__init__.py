"""One module per op, named as the op is, and the models."""
