"""What several benchmarks share: processes, load, ratios."""
