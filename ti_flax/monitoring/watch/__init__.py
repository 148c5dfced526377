"""A run's folder as a live page in a browser: what it answers, and the server that does."""
