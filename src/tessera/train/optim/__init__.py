"""Optimizers, their configuration, and the EMA of weights."""
