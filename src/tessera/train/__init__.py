"""Training by Algorithm 1: data by address, optimiser, checkpoints, the loop."""
