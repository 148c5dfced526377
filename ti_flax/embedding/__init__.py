"""Rows of the token table: what they start from, and the files that hold them."""
