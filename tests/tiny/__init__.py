"""Helpers of the tests: tiny random networks, small sets, folders of samples, and a browser."""
