"""From an export and prompts to pictures."""
