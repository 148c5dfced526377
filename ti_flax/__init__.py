"""Textual Inversion for Stable Diffusion in JAX/Flax (arXiv:2208.01618)."""

__version__ = "0.1.0"
