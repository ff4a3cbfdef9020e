"""The small pre-trained parts of the embedded default, and the recipe that made them."""
