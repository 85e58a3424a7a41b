"""Training of the embedded judge: corpus, fit, figures, model card. Needs the `train` extra."""
