"""Checks of the data on disk: `python -m dataset.doctor`."""
