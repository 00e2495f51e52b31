"""tessera: train your own text-to-image model on a small, curated, labelled image set."""

__version__ = "0.1.0"
