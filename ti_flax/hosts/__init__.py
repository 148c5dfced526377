"""Several hosts that make one run."""
