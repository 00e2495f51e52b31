"""Image quality and prompt alignment against a reference set (paper Table 1)."""
