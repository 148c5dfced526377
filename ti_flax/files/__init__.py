"""Files: regular ones, atomic writes, text, caches, and the list of what a run wrote."""
