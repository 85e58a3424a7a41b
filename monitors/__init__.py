"""Judging, free of I/O where it can be. Imports neither gateway nor evaluator."""
