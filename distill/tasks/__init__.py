"""Tasks whose answers can be checked: items and pools of them, generators, system prompts, scorers."""
