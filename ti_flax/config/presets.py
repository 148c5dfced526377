"""Options that go together, under a name."""

import typing
from collections.abc import Iterable, Mapping

# Directions at one rate and their running mean, from errors that weigh the noisy timesteps more, and nothing
# that does not go with it: a preset suits every configuration.
_DIRECTIONS: Mapping[str, object] = {
    "optimizer": "directional",
    "optimizer_args": None,
    "scale_lr": False,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "lr_step_rules": None,
    "max_grad_norm": None,
    "grad_clip_value": None,
    "embedding_norm": "none",
    "pull_to_start": 0.0,
    "snr_gamma": None,
    "debiased_estimation_loss": True,
    "timestep_sampling": "stratified",
    "use_ema": True,
    "ema_decay": 0.9,
}
# What a preset stands for; docs/learning.md says what each rests on.
PRESETS: Mapping[str, Mapping[str, object]] = {
    "quick": _DIRECTIONS | {"learning_rate": 0.07, "max_train_steps": 40},
    "balanced": _DIRECTIONS | {"learning_rate": 0.07, "max_train_steps": 60},
    "careful": _DIRECTIONS | {"learning_rate": 0.02, "max_train_steps": "auto"},
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
