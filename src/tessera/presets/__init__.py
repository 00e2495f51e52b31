"""Presets: whole configurations as functions. A variant is `dataclasses.replace` on one of them."""
