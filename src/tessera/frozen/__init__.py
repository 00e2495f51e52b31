"""Frozen encoders behind one interface: image latents and text embeddings."""
