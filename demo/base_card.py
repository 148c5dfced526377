"""The model card that goes with the base model: size, data, time and measured quality."""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_CARD = """\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---

# A Stable Diffusion of one small world

A latent diffusion model with the parts of Stable Diffusion 1.x, for 64 x 64 images of one object on a
background. It exists so that Textual Inversion can be seen, tested and measured in minutes. It knows nothing
else.

| part | class | parameters |
|---|---|---|
{parts}
| file size, float16 | | {megabytes:.1f} MB |

**Data.** {scenes:,} images drawn by `demo/world.py`, of {shapes} shapes, {colours} colours, {textures}
textures and {backgrounds} backgrounds, with {captions} captions each. Of two shapes captions name the parts
alone ("five petals", "a narrow waist"); two colours and {combinations} combinations are in images and in no
caption: these are what there is to learn.

**Training.** `{command}`, seed {seed}, with this project's own Flax modules:
{autoencoder}, text encoder and UNet for {denoiser_steps:,} updates of {batch_size} samples
({denoiser_minutes:.0f} minutes), on {device}. The weights of these two are an exponential average.

**Quality.** `python demo/measure.py --samples {samples}`: the share of samples in which `demo/judge.py` sees
what was asked for (25 steps of DPM-Solver++, guidance {guidance:g}): with captions of known words in
combinations that no training caption has, and of renderings that went through the autoencoder alone.

| | {header} |
|---|{rule}|
| captions | {drawn} |
| autoencoder | {encoded} |
"""


def write_card(
    folder: Path,
    params: Mapping[str, object],
    options: argparse.Namespace,
    *,
    seconds: Mapping[str, float],
    captions: Mapping[str, float],
    round_trip: Mapping[str, float],
    samples: int,
) -> None:
    """Writes `README.md` into a finished model folder.

    Args:
      folder: with the weights.
      params: of each component.
      options: of the training.
      seconds: that the stages "autoencoder" and "denoiser" took.
      captions: share of samples right for each attribute, on held-out captions.
      round_trip: the same for renderings through the autoencoder.
      samples: images behind each share.
    """
    import jax
    from measure import GUIDANCE_SCALE
    from shapes import OUTLINES
    from world import BACKGROUNDS, HELD_OUT_COMBINATIONS, RGB, TEXTURES

    classes = {"text_encoder": "CLIPTextModel", "unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
    counts = {name: sum(np.size(leaf) for leaf in jax.tree.leaves(params[name])) for name in classes}
    parts = [f"| {name} | {kind} | {counts[name]:,} |" for name, kind in classes.items()]
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    device = jax.devices()[0]
    text = _CARD.format(
        parts="\n".join(parts),
        megabytes=size / 1e6,
        scenes=options.scenes,
        shapes=len(OUTLINES),
        colours=len(RGB),
        textures=len(TEXTURES),
        backgrounds=len(BACKGROUNDS),
        captions=options.captions,
        combinations=len(HELD_OUT_COMBINATIONS),
        command="python demo/train_base.py" + ("" if options.size == "demo" else f" --size {options.size}"),
        autoencoder=_autoencoder(options, seconds),
        seed=options.seed,
        denoiser_steps=options.denoiser_steps,
        batch_size=options.batch_size,
        denoiser_minutes=seconds["denoiser"] / 60,
        device=_cores() if device.platform == "cpu" else device.device_kind,
        samples=samples,
        guidance=GUIDANCE_SCALE,
        header=" | ".join(captions),
        rule="|".join("---" for _ in captions),
        drawn=" | ".join(f"{share:.3f}" for share in captions.values()),
        encoded=" | ".join(f"{share:.3f}" for share in round_trip.values()),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _autoencoder(options: argparse.Namespace, seconds: Mapping[str, float]) -> str:
    if options.start is not None:
        return "from a finished model, whose autoencoder stays"
    minutes = seconds["autoencoder"] / 60
    return f"the autoencoder for {options.autoencoder_steps:,} updates ({minutes:.0f} minutes)"


def _cores() -> str:
    import os

    return f"{len(os.sched_getaffinity(0))} CPU cores"
