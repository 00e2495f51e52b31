"""Diffusion mathematics: schedules, the loss of Eq. 1-2, samplers. The network is always an argument."""
