"""Asynchronous reinforcement learning: groups of answers are drawn by one policy while a newer one learns."""
