"""Curation: sources to square crops, the CutMix recipe, captions, encodings (paper section 3)."""
