"""Referring expression sets: RefCOCO/+/g, refclef, FP-RefCOCO/+/g, R-RefCOCO/+/g."""
