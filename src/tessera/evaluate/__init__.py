"""Judging images and reporting the numbers with their protocol and interval."""
