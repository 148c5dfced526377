"""One vocabulary for YAML keys and flags, and the configuration made of them."""

from ti_flax.config.parse import load_config, parse_config, parse_with_notes, print_notes
from ti_flax.config.run_config import RunConfig

__all__ = ["RunConfig", "load_config", "parse_config", "parse_with_notes", "print_notes"]
