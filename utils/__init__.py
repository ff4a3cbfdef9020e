"""Helpers that know neither the model nor the data; they import neither."""
