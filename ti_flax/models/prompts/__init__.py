"""Prompts as the text encoders are given them: in chunks, and with weights."""
