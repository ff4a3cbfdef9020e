"""Helpers that know neither the model nor the data sets. Nothing here imports `model` or `dataset`."""
