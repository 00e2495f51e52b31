"""DPG-Bench: questions about dense prompts, answered by a vision-language model (paper Table 3)."""
