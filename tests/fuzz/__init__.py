"""Fuzzing: generated streams through the machine, generated requests through the app."""
