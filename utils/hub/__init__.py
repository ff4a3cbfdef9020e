"""The model hub: local copies, model cards, uploads."""
