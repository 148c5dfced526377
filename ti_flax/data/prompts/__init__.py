"""Captions, prompt templates, and the table of token ids that is made of them."""
