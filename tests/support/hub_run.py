"""Runs that are uploaded to a Hub on loopback."""

from pathlib import Path

import huggingface_hub
import numpy as np
from tiny_run import configure_scheduled

from ti_flax.config.options import HubOptions

TOKEN = "sesame-2f9c7d1e"


ROWS = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)


def options(**changes):
    return HubOptions(**({"push_to_hub": True, "hub_model_id": "me/thing", "hub_token": TOKEN} | changes))


def configure(place, output, **changes):
    return configure_scheduled(place, output, **({"eval_steps": 0} | changes))


def downloaded(hub, monkeypatch, place, repo_id="me/thing"):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    found = huggingface_hub.snapshot_download(repo_id, endpoint=hub.url, token="hf_good", local_dir=place)
    return Path(found)


def warnings_of(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
