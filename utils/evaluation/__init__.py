"""Predictions and the metrics made of them."""
