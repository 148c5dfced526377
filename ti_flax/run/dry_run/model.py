"""A base model without its weights: configs, headers of files, and what is still to be downloaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ti_flax.config import RunConfig
from ti_flax.export.pipeline import CARRIED, carried_parts
from ti_flax.models.base_model import MODEL_PARTS, find_base_model
from ti_flax.models.parameter_shapes import parameter_shapes
from ti_flax.models.stable_diffusion import FlaxStableDiffusion, load_stable_diffusion
from ti_flax.models.weights.hub import Missing, missing_files, needed_files, needed_vae_files
from ti_flax.models.weights.model_source import ModelSource
from ti_flax.run.inputs import chosen_attention

_OF_WEIGHTS = (".safetensors", ".msgpack", ".ckpt", ".bin", ".pt")


@dataclass(frozen=True)
class ModelHere:
    """What is known of a base model before its weights are read.

    Attributes:
      model: its modules, with parameters of the right shapes that are all one and take no memory.
      missing: what is still to be downloaded.
    """

    model: FlaxStableDiffusion
    missing: tuple[Missing, ...]

    def parameter_bytes(self, *parts: str) -> int:
        """Bytes of the parameters of some parts, in the precision that they are computed in."""
        return sum(
            math.prod(leaf.shape) * leaf.dtype.itemsize
            for part in parts
            for leaf in jax.tree.leaves(self.model.params[part])
        )

    def pipeline_bytes(self) -> int:
        """Bytes of the weight files that a pipeline holds again, those to be downloaded included."""
        place = (self.model.source or ModelSource(Path())).place
        files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
        here = {path.relative_to(place).as_posix(): path.stat().st_size for path in files}
        coming = {name: size or 0 for each in self.missing for name, size in each.files.items()}
        sizes = {**here, **coming}
        return sum(size for name, size in sizes.items() if name == "." or name.endswith(_OF_WEIGHTS))


def model_without_weights(config: RunConfig, platform: str) -> ModelHere:
    """Finds the base model and checks all that can be checked of it without reading its weights.

    Of a repository on the Hub the config files and the tokenizer are downloaded, where they are not here.

    Args:
      config: of the run.
      platform: that it will be computed on.

    Raises:
      TiFlaxError: what a run would find wrong with it.
    """
    carried = () if config.output.only_save_embeds else CARRIED
    parts = (*MODEL_PARTS, *carried)
    source = find_base_model(config.model, parts, weights=False)
    if carried:
        carried_parts(source.place)
    missing = _missing(config, source, parts)
    model = load_stable_diffusion(
        source,
        dtype=jnp.dtype(config.model.compute_dtype),
        attention=chosen_attention(config.model.attention, platform),
        components=(),
    )
    coming = {part for each in missing for part in _parts_of(each)}
    for part in model.components:
        module = model.module(part)
        shapes = parameter_shapes(module)
        if part not in coming:
            source.check_params(part, shapes)
        model.params[part] = jax.tree.map(partial(_ones, dtype=jnp.dtype(module.dtype)), shapes)
    return ModelHere(model, missing)


def _ones(shape: jax.ShapeDtypeStruct, dtype: Any) -> np.ndarray:
    return np.broadcast_to(np.ones((), dtype), shape.shape)


def _missing(config: RunConfig, source: ModelSource, parts: tuple[str, ...]) -> tuple[Missing, ...]:
    options = config.model
    needed = partial(needed_files, variant=options.variant, components=parts)
    name, vae = options.pretrained_model_name_or_path, options.pretrained_vae_model_name_or_path
    found = [missing_files(name, source.place, needed, options.revision)]
    if vae is not None and source.vae is not None:
        found.append(missing_files(vae, source.vae, partial(needed_vae_files, variant=options.variant)))
    return tuple(each for each in found if each is not None)


def _parts_of(missing: Missing) -> set[str]:
    """The parts that files are of; files of a VAE's repository may lie in no folder."""
    return {name.partition("/")[0] if "/" in name else "vae" for name in missing.files}
