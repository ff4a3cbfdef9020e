"""The data sets: from files on disk to `Sample` and `Batch`. Nothing here imports `model`."""
