"""Stable Diffusion in flax.linen, with the parameter names of FlaxStableDiffusionPipeline."""
