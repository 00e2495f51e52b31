"""Networks that turn images (and captions) into features."""
