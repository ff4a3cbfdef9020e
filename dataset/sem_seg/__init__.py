"""Semantic segmentation sets: classes and parts as questions."""
