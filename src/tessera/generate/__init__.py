"""From an export and prompts to images."""
