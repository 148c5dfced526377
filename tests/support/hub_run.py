"""Runs that are uploaded to a Hub on loopback."""

import numpy as np

from ti_flax.config.options import HubOptions

TOKEN = "sesame-2f9c7d1e"


ROWS = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)


def options(**changes):
    return HubOptions(**({"push_to_hub": True, "hub_model_id": "me/thing", "hub_token": TOKEN} | changes))
