"""Text in, batches out: what is read (source), how it is kept (corpus), how it becomes rows of tokens (loader)."""
