"""Command lines: flags from dataclasses, presets, checks."""
