"""Emoji of several artists, from pinned packages: real drawings with names and tags that people gave them."""
