"""Measuring: figures, tables and the model card of any judge. Separate from training."""
