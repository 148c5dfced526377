"""The commands of `ti-flax`; the programs in `scripts/` and `train_flax.py` are faces of the same ones."""
