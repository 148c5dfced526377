"""What the original Stable Diffusion code's YAML file beside a model says of it."""

import pathlib
from collections.abc import Mapping
from typing import Any

from ti_flax.errors import WeightsError, in_short
from ti_flax.files.regular import read_regular

_LONGEST = 2**20
_PREDICTIONS = {"eps": "epsilon", "v": "v_prediction"}
# SDXL's code names a class in place of a word.
_SCALINGS = {"EpsScaling": "epsilon", "VScaling": "v_prediction"}
_BETA_SCHEDULES = {"linear": "scaled_linear", "sqrt_linear": "linear"}


def read_description(path: pathlib.Path) -> dict[str, Any]:
    """Return the `model.params` of one of the original code's YAML files."""
    import yaml

    try:
        text = read_regular(path, _LONGEST).decode()
        # Names for parts of the file, which put together unfold into any length.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=yaml.SafeLoader)):
            raise ValueError("an alias")
        params = yaml.safe_load(text)["model"]["params"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(
            path,
            expected="the original code's description of the model beside it, with model.params",
            found=f"something else ({in_short(error)})",
            remedy="Rename the file if it is not about the model.",
        ) from None
    return params if isinstance(params, dict) else {}


def predicted(written: Mapping[str, Any], path: pathlib.Path) -> str | None:
    """Return what a description says that the UNet predicts, or None where there is no description."""
    value = written.get("parameterization")
    if value is None and (scaling := _scaling(written)):
        if scaling not in _SCALINGS:
            known = " or ".join(_SCALINGS)
            raise WeightsError(f"{path}: scaling_config", expected=known, found=repr(scaling))
        return _SCALINGS[scaling]
    if value is None:
        return "epsilon" if written else None  # the original code's default
    if not isinstance(value, str) or value not in _PREDICTIONS:
        raise WeightsError(f"{path}: parameterization", expected="eps or v", found=repr(value))
    return _PREDICTIONS[value]


def _scaling(written: Mapping[str, Any]) -> str:
    """Return the class by which SDXL's code scales what its UNet predicts; empty where none is named."""
    node: Any = written
    for name in ("denoiser_config", "params", "scaling_config", "target"):
        node = node.get(name) if isinstance(node, dict) else None
    return str(node).rpartition(".")[2] if node is not None else ""


def apply_description(
    configs: dict[str, dict[str, Any]], written: Mapping[str, Any], path: pathlib.Path
) -> None:
    """Put what a YAML file says and shapes do not into the configs."""
    renamed = {"linear_start": "beta_start", "linear_end": "beta_end", "timesteps": "num_train_timesteps"}
    scheduler = {theirs: written[ours] for ours, theirs in renamed.items() if written.get(ours) is not None}
    if (schedule := written.get("beta_schedule")) is not None:
        if not isinstance(schedule, str) or schedule not in _BETA_SCHEDULES:
            known = " or ".join(_BETA_SCHEDULES)
            raise WeightsError(f"{path}: beta_schedule", expected=known, found=repr(schedule))
        scheduler["beta_schedule"] = _BETA_SCHEDULES[schedule]
    described = written.get("unet_config") or written.get("network_config")  # the latter is SDXL's
    unet = described.get("params") if isinstance(described, dict) else None
    unet = unet if isinstance(unet, dict) else {}
    channels = configs["unet"]["block_out_channels"]
    try:
        configs["scheduler"] |= {
            name: type(configs["scheduler"][name])(value) for name, value in scheduler.items()
        }
        if written.get("scale_factor") is not None and "vae" in configs:
            configs["vae"]["scaling_factor"] = float(written["scale_factor"])
        if (width := unet.get("num_head_channels") or -1) != -1:
            configs["unet"]["attention_head_dim"] = [size // int(width) for size in channels]
        elif (heads := unet.get("num_heads") or -1) != -1:
            configs["unet"]["attention_head_dim"] = int(heads)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise WeightsError(path, expected="numbers", found=str(error)) from None
