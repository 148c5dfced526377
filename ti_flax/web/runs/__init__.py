"""Runs of the work folder: their programs, what is seen of them, and those that wait."""
