"""Data sets that users add, below `own/NAME` in the data folder (see docs/own_data.md)."""
