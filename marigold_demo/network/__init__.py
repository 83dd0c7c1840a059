"""Photo -> depth: the Marigold loop, its ensembling, and where weights come from."""
