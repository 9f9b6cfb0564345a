"""Per-case metrics and the statistics made from them."""
