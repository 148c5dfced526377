"""Options that were measured together, under a name."""

import typing
from collections.abc import Iterable, Mapping

# What a preset stands for; docs/learning.md says what each was measured to give.
PRESETS: Mapping[str, Mapping[str, object]] = {
    "quick": {},
    "balanced": {},
    "careful": {},
}


def layered(layers: Iterable[Mapping[str, typing.Any]]) -> dict[str, typing.Any]:
    """Puts values over values, each place's preset over what was written before and under what is beside it.

    Args:
      layers: option name to value, perhaps with a `preset`, of each place where options are written; the
        values of a later place win. Of several presets the last counts, and null takes it back.
    """
    preset: Mapping[str, typing.Any] = {}
    written: dict[str, typing.Any] = {}
    for layer in layers:
        if "preset" in layer:
            name = layer["preset"]
            preset = PRESETS.get(name, {}) if isinstance(name, str) else {}
            written = {name: value for name, value in written.items() if name not in preset}
        written |= layer
    return {**preset, **written}
