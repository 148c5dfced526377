"""Which field of the page a message is about."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ti_flax.config.run_config import GROUPS, OPTIONS
from ti_flax.config.values import options_of

# The places of the page where a message can stand.
PLACES = ("model", "images", "word", "start", "settings", "further", "run")
_OF_OPTION = {
    "placeholder_token": "word",
    "num_vectors": "word",
    "initializer_token": "start",
    "initializer_mode": "start",
    "init_embeds": "further",
    "preset": "settings",
    "output_dir": "run",
    "resume_from_checkpoint": "run",
}
_OF_GROUP = {"model": "model", "images": "images", "prompts": "images", "loss": "further"}
_NAME = re.compile(r"(?:--|missing: )?(\w+)")


def place_of(message: str, fields: Mapping[str, object]) -> str:
    """The place where a message stands: beside the field that it is about, or else beside the buttons.

    Args:
      message: of an error, in one line.
      fields: the options that have a field of their own among the settings.
    """
    if message.startswith(("further flags", "unknown flag")) or "belongs to no flag" in message:
        return "further"
    if message.startswith(("model ", "VAE ")):
        return "model"
    if message.startswith(("images", "captions", "caption ")):
        return "images"
    found = _NAME.match(message)
    name = found[1] if found else ""
    if name not in OPTIONS:
        return "images" if re.match(r"\S*\bimages/", message) else "run"
    if name in fields:
        return _OF_OPTION.get(name, "settings")
    group = next(group for group, kind in GROUPS.items() if name in {each.name for each in options_of(kind)})
    main = name in ("pretrained_model_name_or_path", "train_data_dir")
    return _OF_OPTION.get(name) or (_OF_GROUP.get(group, "further") if main else "further")
