"""The captions stage: a text for each image or recipe row (paper section 3.1)."""
