"""The mathematics of distillation: losses, pathways, taps, trials."""
