"""Captioners: networks that write a caption for an image."""
