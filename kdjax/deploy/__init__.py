"""From the study to where it runs: plans for TPU slices."""
