"""Frozen pretrained networks behind one interface for each job."""
