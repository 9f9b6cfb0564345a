"""Before a run and after it: the plan for a TPU, the network as one file."""
