"""Judges: anything that scores a passage."""
