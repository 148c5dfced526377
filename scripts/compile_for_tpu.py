"""Compile a run's training step for a TPU slice without having one, and say what it needs there.

    pip install libtpu
    python scripts/compile_for_tpu.py --config configs/cat.yaml --mixed_precision bf16 --topology v5e:2x4

It compiles the very program that the slice would run: memory of a chip, whether it fits, the largest batch
that does, work, and what the chips tell one another. Only the model's config files are read, no weights.
With `--roofline` it predicts the step's time from the compiled operations. Options that are not listed here
are those of train_flax.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import math
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from hlo import ELEMENT_BYTES  # noqa: E402

from ti_flax.config import RunConfig, parse_config  # noqa: E402
from ti_flax.console.arguments import ArgumentParser  # noqa: E402
from ti_flax.console.program import exit_code  # noqa: E402
from ti_flax.errors import ConfigError  # noqa: E402

if TYPE_CHECKING:
    from ti_flax.models.stable_diffusion import FlaxStableDiffusion

# Gigabytes (2**30 bytes) of memory that a JAX device has (cloud.google.com/tpu/docs, one page a version).
MEMORY = {"v2": 8, "v3": 16, "v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
# Or libtpu asks a metadata server, which only a TPU VM has, for minutes, and complains of what is missing.
_NO_TPU_HERE = {
    "JAX_PLATFORMS": "cpu",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class Target:
    """What is compiled, and what for.

    Attributes:
      config: of the run.
      model: its modules, without parameters.
      devices: of the slice.
      limit: bytes of memory of a device.
      concepts: that learn at once.
    """

    config: RunConfig
    model: FlaxStableDiffusion
    devices: list[Any]
    limit: int
    concepts: int = 1

    @property
    def whole(self) -> bool:
        """Whether each concept has a device for itself."""
        return self.concepts >= len(self.devices) > 1

    @property
    def on_device(self) -> int:
        """Concepts that a device computes."""
        return self.concepts // len(self.devices) if self.whole else self.concepts


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of the step.

    Attributes:
      batch: samples of a device and concept.
      seconds: tracing and compiling took.
      arguments: bytes of parameters, images and state on a device.
      temporary: bytes of activations and all else that lives while it runs.
      program: bytes of the machine code.
      flop: of a device and step, in matrix products, convolutions and kernels.
      traffic: bytes of its main memory that a device reads and writes in a step.
      collectives: each collective operation of the program with its bytes.
      text: the compiled program.
      concepts: that a device computes.
    """

    batch: int
    seconds: float
    arguments: int
    temporary: int
    program: int
    flop: float
    traffic: float
    collectives: tuple[tuple[str, int], ...]
    text: str = ""
    concepts: int = 1

    @property
    def samples(self) -> int:
        """Samples of a device and step."""
        return self.batch * self.concepts

    @property
    def memory(self) -> int:
        """Bytes that a device needs."""
        return self.arguments + self.temporary + self.program


def parse_arguments(argv=None) -> tuple[argparse.Namespace, list[str]]:
    parser = ArgumentParser(
        description="Compile a run's training step for a TPU slice without having one.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="All other options are those of train_flax.py.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--topology", default="v5e:2x4", help="version and shape of the slice, such as v4:2x2x1")
    add(
        "--preset",
        choices=("demo", "mid", "sd15", "sd21", "sdxl-tiny", "sdxl-mid", "sdxl"),
        help="shapes of benchmarks/presets.py, not a model's",
    )
    add("--concepts_at_once", type=int, default=1, metavar="N", help="concepts that learn at once")
    add("--no_search", action="store_true", help="do not look for the largest batch")
    add("--roofline", action="store_true", help="predict the step's time from the compiled operations")
    return parser.parse_known_args(argv)


def slice_devices(topology: str) -> list[Any]:
    """The devices of a slice that is not there.

    Raises:
      ConfigError: libtpu is not installed, or knows no such slice.
    """
    os.environ.update(_NO_TPU_HERE)
    from jax.experimental import topologies

    version = topology.partition(":")[0]
    if version not in MEMORY:
        raise ConfigError("--topology", expected=f"one of {', '.join(MEMORY)} and a shape", found=topology)
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError("--topology", expected="the package libtpu", remedy="pip install libtpu")
    try:
        # Elsewhere a device is what JAX takes by default; both cores of a v4 chip are one device there.
        kind = {"chip_config_name": "megacore"} if version == "v4" else {}
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology, **kind)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ConfigError("--topology", expected="a slice that libtpu knows", found=reason) from None
    return list(described.devices)


def compile_step(target: Target, batch: int) -> Compiled:
    """Compiles the step with so many samples a device, for devices that need not be there.

    Raises:
      MemoryError: the compiler finds that it does not fit.
    """
    import jax
    from roofline import operations

    from ti_flax.hosts.compilation import has_no_room, planned_memory
    from ti_flax.run.fit import CHUNK_CAPACITY
    from ti_flax.training.devices import pmapped
    from ti_flax.training.step import make_chunk
    from ti_flax.training.streaming import window_capacity

    step_config = step_config_of(target, batch)
    began = time.perf_counter()
    shapes = shapes_for(target.config, step_config)
    capacity = window_capacity(step_config, shapes, CHUNK_CAPACITY)
    arguments = abstract_arguments(step_config, shapes, capacity, devices=len(target.devices))
    lowered = pmapped(make_chunk(step_config, capacity, shapes), target.devices).lower(*arguments)
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if has_no_room(error):
            raise MemoryError from None
        raise
    seconds = time.perf_counter() - began
    # The compiler's own sums take a loop over layers for one layer.
    planned, text = planned_memory(program), program.as_text()
    found = operations(text)
    return Compiled(
        batch=step_config.batch_size,
        seconds=seconds,
        **planned._asdict(),
        flop=sum(each.times * each.flop for each in found),
        traffic=sum(each.times * each.traffic for each in found),
        collectives=collectives(text),
        text=text,
        concepts=target.on_device,
    )


def step_config_of(target: Target, batch: int) -> Any:
    """What the run's step is made from, with so many samples a device."""
    import numpy as np

    from ti_flax.embedding.rows import add_rows
    from ti_flax.run.step_config import make_step_config

    config, model = target.config.replace(train_batch_size=batch), target.model
    count, widths = sum(each.num_vectors or 1 for each in config.concept.each), model.widths
    added = add_rows(
        {name: np.zeros((1, width), np.float32) for name, width in widths.items()},
        {name: np.zeros((count, width), np.float32) for name, width in widths.items()},
    )
    sharing = 1 if target.whole else len(target.devices)
    step_config, _ = make_step_config(
        config,
        model,
        model.text_encoder.config.vocab_size,
        added=added,
        devices=sharing,
        batches=sharing,
    )
    return dataclasses.replace(step_config, slots=target.on_device, whole_slots=target.whole)


def read_configs(config: RunConfig, preset_name: str | None) -> FlaxStableDiffusion:
    """The modules of the configured model, or of a preset, without parameters."""
    import jax.numpy as jnp
    from presets import preset

    from ti_flax.models.attention import Attention
    from ti_flax.models.base_model import find_base_model
    from ti_flax.models.stable_diffusion import load_stable_diffusion, random_stable_diffusion

    options = config.model
    kind = {
        "dtype": jnp.dtype(options.compute_dtype),
        "attention": Attention(options.attention, platform="tpu"),
    }
    if preset_name:
        return random_stable_diffusion(preset(preset_name), seed=0, components=(), **kind)
    parts = ("scheduler", "text_encoder", "unet", "vae")
    source = find_base_model(options, components=parts, weights=False)
    return load_stable_diffusion(source, components=(), **kind)


def shapes_for(config: RunConfig, step_config: Any) -> Any:
    """What the pictures are like: of one shape, without masks."""
    from ti_flax.training.streaming import PictureShape, Shapes

    model = step_config.model
    vae, tokens = model.vae.config, model.text_encoder.config.max_position_embeddings
    side = config.images.resolution // vae.downsampling
    picture = PictureShape(side, side, 2 * vae.latent_channels, masked=False)
    return Shapes((picture,), None, tokens, model.is_sdxl)


def abstract_arguments(step_config: Any, shapes: Any, capacity: int, *, devices: int) -> tuple[Any, ...]:
    """Shapes and dtypes of the program's arguments, each with the axis of the devices."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from ti_flax.models.stable_diffusion import parameter_shapes
    from ti_flax.training.state import Taught, init_state
    from ti_flax.training.streaming import empty_window

    model = step_config.model
    frozen = {
        **{name: parameter_shapes(encoder) for name, encoder in model.text_encoders.items()},
        "unet": parameter_shapes(model.unet),
    }
    rows = {
        name: np.zeros((len(learns), model.widths[name]), np.float32)
        for name, learns in step_config.trainable.items()
    }
    settings = jax.eval_shape(lambda: jax.tree.map(jnp.float32, step_config.settings))
    taught = Taught(jax.ShapeDtypeStruct((2,), jnp.uint32), settings)
    rates, steps = jax.ShapeDtypeStruct((capacity,), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    state = jax.eval_shape(lambda: init_state(step_config, rows))
    window = empty_window(step_config, shapes, capacity)
    of_slots = with_axis((state, taught, rates, steps, window), step_config.slots)
    state, *given = with_axis(of_slots, devices)
    return state, with_axis(frozen, devices), *given


def with_axis(tree: Any, length: int) -> Any:
    """Shapes with one more axis in front."""
    import jax

    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((length, *leaf.shape), leaf.dtype), tree)


def collectives(text: str) -> tuple[tuple[str, int], ...]:
    """Finds the collective operations in a compiled program, with the bytes of their results."""
    found = []
    for line in text.splitlines():
        match = re.search(rf"= (.*?) ({'|'.join(_COLLECTIVES)})(?:-start)?\(", line)
        if match:
            found.append((match[2], sum(map(_bytes, re.findall(r"(\w+)\[([\d,]*)\]", match[1])))))
    return tuple(found)


def _bytes(array: tuple[str, str]) -> int:
    kind, shape = array
    return int(ELEMENT_BYTES.get(kind, 4) * math.prod(int(size) for size in shape.split(",") if size))


def largest_batch(target: Target, at_first: Compiled | None) -> int:
    """The largest batch of a device that the compiler accepts, by two compilations and a check or two."""
    first = at_first or try_batch(target, 1)
    if first is None or first.memory > target.limit:
        return 0
    second = try_batch(target, first.batch * 2)
    if second is None or second.memory > target.limit:
        return 1 if first.batch == 1 else largest_batch(target, None)
    each = max(1, (second.memory - first.memory) / (second.batch - first.batch))
    guess = first.batch + int((target.limit - first.memory) / each)
    while guess > second.batch:
        tried = try_batch(target, guess)
        if tried is not None and tried.memory <= target.limit:
            return guess
        guess = max(second.batch, min(guess - 1, int(guess * 0.95)))
    return second.batch


def try_batch(target: Target, batch: int) -> Compiled | None:
    """Compiles with a batch; None if it does not fit."""
    print(f"compiling with batch {batch}", file=sys.stderr, flush=True)
    try:
        return compile_step(target, batch)
    except MemoryError:
        return None


def report(topology: str, target: Target, found: Compiled | None) -> str:
    """What the compiler said, as lines of text."""
    limit = target.limit
    head = f"{topology}: {len(target.devices)} devices of {limit / 2**30:.0f} GiB"
    if found is None:
        return f"{head}\nmemory     does not fit: the compiler ran out of it"
    kinds = {"arguments": found.arguments, "temporary": found.temporary, "program": found.program}
    parts = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in kinds.items())
    fits = "fits" if found.memory <= limit else "does not fit"
    spoken = "; ".join(f"{name} of {size:,} bytes" for name, size in found.collectives) or "none"
    return "\n".join(
        [
            head,
            f"compiled   in {found.seconds:.0f} s, batch {found.batch} a device"
            + (f" and concept, concepts {found.concepts} a device" if target.concepts > 1 else ""),
            f"memory     {found.memory / 2**30:.2f} GiB a device ({parts}): {fits}",
            f"work       {found.flop / 1e12:.3f} TFLOP and {found.traffic / 1e9:.2f} GB read and written, "
            "a device and step",
            f"a sample   {found.flop / found.samples / 1e12:.3f} TFLOP and "
            f"{found.traffic / found.samples / 1e9:.2f} GB",
            f"between    {spoken}",
        ]
    )


def prediction(topology: str, target: Target, found: Compiled) -> str:
    """The time of the compiled step as the chip's peaks and the compiler predict it, as lines of text."""
    from roofline import CHIPS, operations, shown
    from step import flop_per_sample

    step_config = step_config_of(target, found.batch)
    shapes = shapes_for(target.config, step_config)
    frozen = abstract_arguments(step_config, shapes, capacity=1, devices=len(target.devices))[1]
    work = flop_per_sample(step_config, frozen, shapes) * found.samples
    return shown(operations(found.text), CHIPS[topology.partition(":")[0]], work)


def main(argv=None) -> None:
    options, rest = parse_arguments(argv)
    config = parse_config(rest)
    check_roofline(options)
    devices = slice_devices(options.topology)
    limit = MEMORY[options.topology.partition(":")[0]] * 2**30
    check_concepts(options.concepts_at_once, len(devices))
    model = read_configs(config, options.preset)
    target = Target(config, model, devices, limit, options.concepts_at_once)
    found = try_batch(target, config.training.train_batch_size)
    print(report(options.topology, target, found), flush=True)
    if options.roofline and found is not None:
        print(prediction(options.topology, target, found), flush=True)
    if not options.no_search:
        start = found if found is not None and found.memory <= limit else None
        print(f"largest    batch {largest_batch(target, start)} a device")


def check_concepts(concepts: int, devices: int) -> None:
    """Refuses concepts of which devices would hold different numbers."""
    if concepts < 1 or (concepts > devices and concepts % devices):
        raise ConfigError(
            "--concepts_at_once",
            expected=f"fewer than the {devices} devices, or a multiple of them",
            found=str(concepts),
        )


def check_roofline(options: argparse.Namespace) -> None:
    """Refuses a prediction for a version whose peaks nobody wrote down here, before anything is compiled."""
    from roofline import CHIPS

    version = options.topology.partition(":")[0]
    if options.roofline and version in MEMORY and version not in CHIPS:
        raise ConfigError("--roofline", expected=f"one of {', '.join(CHIPS)}", found=options.topology)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main()))
