"""Copies: how near generated images lie to training images."""
