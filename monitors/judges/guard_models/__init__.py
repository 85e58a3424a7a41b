"""Guard models: each family's prompt, categories in our words, and reader of verdicts."""
