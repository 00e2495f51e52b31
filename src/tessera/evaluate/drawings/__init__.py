"""The judge of drawings: trained on scenes that are composed of the set's own images."""
