"""Pages, tables, charts and overlays for people to look at."""
