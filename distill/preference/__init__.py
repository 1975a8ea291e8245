"""Direct preference optimisation: right answers against wrong ones, out of what reinforcement learning drew."""
