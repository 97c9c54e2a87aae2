"""Games: a generator learns from a critic that learns to tell its samples from data."""
