"""The options that every run needs, and a configuration with others beside them."""

from ti_flax.config import RunConfig, parse_config

REQUIRED = {
    "pretrained_model_name_or_path": "model",
    "train_data_dir": "pictures",
    "placeholder_token": "<new>",
    "initializer_token": "toy",
}
REQUIRED_FLAGS = [f"--{name}={value}" for name, value in REQUIRED.items()]


def parse(*flags: str) -> RunConfig:
    return parse_config([*REQUIRED_FLAGS, *flags])
