"""Sections of the page of a run: what it draws, how it learned, what it copies."""
