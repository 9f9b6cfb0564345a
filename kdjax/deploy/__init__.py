"""A trained network as a file of its own, and predictions from it."""
