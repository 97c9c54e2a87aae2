"""Models that learn to tell pairs that belong together from pairs that do not."""
