"""A toy world: every data set, small, drawn anywhere (see world.py)."""
