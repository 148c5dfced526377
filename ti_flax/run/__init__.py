"""One whole run: inputs, training, result. The only part that sees the whole configuration."""
