"""Training by Algorithm 1: data by address, optimizer, checkpoints, the loop."""
