"""Records and scores of an analysis of [SEG], and their dashboard."""
