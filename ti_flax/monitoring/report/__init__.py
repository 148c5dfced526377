"""The page that a run leaves: what was trained, what came of it, and how to use it."""
