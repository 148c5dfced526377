"""Measure the training step with random weights: time, compilation, memory, and how near the machine's limit.

    python benchmarks/step.py --preset tiny --calls 2          does it run here?
    python benchmarks/step.py --preset mid --batch 2
    python benchmarks/step.py --preset sd15 --batch 16 --dtype bfloat16 --json step.json

It runs the chunked step and the loop of train_flax.py. MFU is model FLOP utilisation (arXiv:2204.02311,
appendix B): the FLOP that the step needs, over the time it takes, over a peak. For an accelerator with a
published peak it is that one. For any other device it is the rate at which this machine multiplies large
matrices, measured after every timed call, because a machine's clock wanders: both sides are medians of the
same minute, so that MFU is above 100% only by the noise of that minute.
"""

import argparse
import atexit
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "demo")]

import ti_flax  # noqa: E402, F401  # first: it says so where Python is too old

# isort: split
import numpy as np  # noqa: E402
from help_format import HelpFormatter  # noqa: E402
from peak import Matmuls, published_rate  # noqa: E402

from ti_flax.console.arguments import ArgumentParser  # noqa: E402
from ti_flax.console.program import exit_code  # noqa: E402
from ti_flax.errors import ConfigError  # noqa: E402

PRESETS = ("tiny", "demo", "mid", "odd-shallow", "odd-deep", "sd15", "sd21")
PRESETS += ("sdxl-tiny", "sdxl-mid", "sdxl")
# Rows, images and prompts of the measured run; none of them matters for the time.
_IMAGES, _PROMPTS = 5, 27


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = ArgumentParser(
        description="Measure the training step with random weights.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="mid", help="shapes of the model")
    add("--batch", type=int, default=1, help="samples per device and step")
    add("--resolution", type=int, help="side of the images; by default the preset's")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="dtype of the frozen model")
    add("--devices", type=int, help="devices to use, by default all; a CPU is split into so many")
    add("--attention", default="auto", help="implementation, as for train_flax.py")
    add("--gradient_checkpointing", action="store_true", help="recompute activations, as train_flax.py does")
    add("--calls", type=int, default=8, help="timed calls of the device program")
    add("--seconds", type=float, default=1.0, help="how long one call should take")
    add("--json", type=Path, metavar="FILE", help="write the figures to this file")
    return parser.parse_args(argv)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Builds, compiles and times the step; returns the figures by name."""
    if options.devices:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={options.devices}".strip()
    import jax

    from ti_flax.run.fit import sender_for
    from ti_flax.training.devices import Slots
    from ti_flax.training.streaming import Feed, shapes_of

    devices = jax.local_devices()[: options.devices]
    if options.devices and len(devices) < options.devices:
        raise ConfigError("--devices", expected=f"at most {len(devices)}", found=str(options.devices))
    step_config, state, arguments, examples = build(options, devices)
    shapes = shapes_of(examples)
    flop = flop_per_sample(step_config, arguments[0], shapes)
    sender = sender_for(step_config, shapes, Slots(1, devices))
    program, cold, warm = compiled(step_config, state, arguments, devices, sender)
    sender.seat(0, Feed(step_config, examples, np.zeros(2, np.uint32), shapes, capacity=sender.capacity))
    matmuls = Matmuls(options.dtype, devices[0], devices=len(devices))
    chunks, between = timed(options, program, step_config, arguments, sender, matmuls)
    steps = np.array([1e3 * chunk.seconds / len(chunk.loss) for chunk in chunks])
    seconds = float(np.median(steps)) / 1e3
    published = published_rate(devices[0].device_kind, options.dtype)
    return {
        "preset": options.preset,
        "batch": options.batch,
        "resolution": resolution(options),
        "dtype": options.dtype,
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "compile_seconds_cold": cold,
        "compile_seconds_warm": warm,
        "step_ms_median": float(np.median(steps)),
        "step_ms_least": float(steps.min()),
        "step_ms_most": float(steps.max()),
        "samples_per_second": step_config.global_batch / seconds,
        "flop_per_sample": flop,
        **against_peak(flop * options.batch, seconds, matmuls.rates, published),
        "host_share_between_calls": between / (between + sum(chunk.seconds for chunk in chunks)),
        "steps_per_call": len(chunks[-1].loss),
        **memory(program, devices[0]),
        "versions": versions(),
    }


def against_peak(
    work: float, seconds: float, rates: Sequence[float], published: float | None
) -> dict[str, Any]:
    """Holds the step against what the device could do.

    Args:
      work: FLOP of a device and step.
      seconds: median of a step.
      rates: FLOP per second of the rounds of matrix products.
      published: FLOP per second, None where nobody says.
    """
    rate = float(np.median(rates))
    peak = published or rate
    return {
        "flop_per_second_of_matmul": rate,
        "flop_per_second_at_peak": peak,
        "peak_is_published": published is not None,
        "mfu": work / seconds / peak,
        "floor_ms": 1e3 * work / peak,
    }


def resolution(options: argparse.Namespace) -> int:
    from presets import RESOLUTIONS

    return options.resolution or RESOLUTIONS[options.preset]


def build(options: argparse.Namespace, devices: list) -> tuple[Any, Any, tuple, Any]:
    """Makes the step_config, its first state, the frozen arrays on the devices, and the examples."""
    import jax
    import jax.numpy as jnp
    from presets import preset, sizes

    from ti_flax.data.dataset import one_shape
    from ti_flax.models.attention import Attention
    from ti_flax.models.noise_schedule import NoiseSchedule
    from ti_flax.models.stable_diffusion import random_stable_diffusion
    from ti_flax.training import optimizer as optim
    from ti_flax.training.devices import Slots, replicate, stacked
    from ti_flax.training.state import KEY_IMPLEMENTATION, StepConfig, Taught, init_state

    model = random_stable_diffusion(preset(options.preset), seed=0, dtype=jnp.dtype(options.dtype))
    model = with_attention(
        model, Attention(options.attention), gradient_checkpointing=options.gradient_checkpointing
    )
    text = model.text_encoder.config
    trainable = {encoder: np.ones(1, bool) for encoder in model.text_encoders}

    def optimizer(rate: Any, clip: Any) -> Any:
        adamw = optim.make_optimizer("adamw", rate, arguments={"weight_decay": 1e-2})
        return optim.mask_rows(adamw, trainable)

    step_config = StepConfig(
        model=model,
        schedule=NoiseSchedule.from_config(model.configs["scheduler"]),
        optimizer=optimizer,
        trainable=trainable,
        first_added_id=text.vocab_size,
        batch_size=options.batch,
        device_count=len(devices),
    )
    rng = np.random.default_rng(0)
    side = resolution(options) // model.vae.config.downsampling
    moments = (_IMAGES, 2, side, side, 2 * model.vae.config.latent_channels)
    token_ids = rng.integers(0, text.vocab_size + 1, (_PROMPTS, text.max_position_embeddings), np.int32)
    time_ids = sizes(_IMAGES, resolution(options)) if model.is_sdxl else None
    examples = one_shape(rng.standard_normal(moments, np.float32), token_ids, time_ids=time_ids)
    rows = {name: rng.standard_normal((1, width), np.float32) * 0.02 for name, width in model.widths.items()}
    key = np.asarray(jax.random.key_data(jax.random.key(0, impl=KEY_IMPLEMENTATION)))
    taught = Slots(1, devices).place(stacked([Taught(key, step_config.settings)]))
    arguments = (replicate(model.step_params, devices), taught)
    model.params.clear()
    return step_config, jax.device_get(init_state(step_config, rows)), arguments, examples


def with_attention(model: Any, attention: Any, *, gradient_checkpointing: bool) -> Any:
    """The model with modules that compute attention so."""
    import dataclasses

    return dataclasses.replace(
        model,
        unet=model.unet.clone(attention=attention, gradient_checkpointing=gradient_checkpointing),
        text_encoders={
            name: encoder.clone(attention=attention) for name, encoder in model.text_encoders.items()
        },
    )


def flop_per_sample(step_config: Any, frozen: Any, shapes: Any) -> int:
    """Counts the step's FLOP with the plain attention, so that recomputing counts for nothing.

    Args:
      step_config: of the step.
      frozen: its frozen arrays or their shapes, with the axis of the devices.
      shapes: of the pictures, all alike.
    """
    import dataclasses

    import jax
    import jax.numpy as jnp
    from flop import count_flop

    from ti_flax.models.attention import Attention
    from ti_flax.training.batches import Batch
    from ti_flax.training.step import denoising_loss

    model = with_attention(step_config.model, Attention("plain"), gradient_checkpointing=False)
    step_config = dataclasses.replace(step_config, model=model)
    frozen = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), frozen)
    (picture,) = shapes.buckets
    latents = jnp.zeros((1, picture.height, picture.width, picture.moments // 2))
    tokens = jnp.zeros((1, shapes.tokens), jnp.int32)
    time_ids = jnp.zeros((1, 6)) if model.is_sdxl else None
    batch = Batch(latents, latents, jnp.zeros(1, jnp.int32), tokens, time_ids=time_ids)
    rows = {name: jnp.zeros((1, width)) for name, width in model.widths.items()}
    step = jax.value_and_grad(lambda rows, frozen, batch: denoising_loss(rows, frozen, batch, step_config))
    return count_flop(jax.make_jaxpr(step)(rows, frozen, batch).jaxpr)


def compiled(
    step_config: Any, state: Any, arguments: tuple, devices: list, sender: Any
) -> tuple[Any, float, float]:
    """Compiles twice, into an empty cache and out of it; returns the program and both times in seconds."""
    import jax

    from ti_flax.hosts.compilation import compiled as compile_lowered
    from ti_flax.run.fit import lower_step
    from ti_flax.training.devices import Slots

    seconds, program = [], None
    keep_in_empty_folder()
    for _ in range(2):
        jax.clear_caches()
        began = time.perf_counter()
        lowered = lower_step(step_config, sender.shapes, Slots(1, devices), state, arguments, sender)
        program = compile_lowered(lowered, devices)
        seconds.append(time.perf_counter() - began)
    return program, *seconds


def keep_in_empty_folder() -> None:
    """Makes JAX keep every compiled program in a new folder, for the life of this process."""
    import jax

    folder = tempfile.mkdtemp(prefix="ti_flax-compile-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def timed(
    options: argparse.Namespace,
    program: Any,
    step_config: Any,
    arguments: tuple,
    sender: Any,
    matmuls: Matmuls,
) -> tuple[list, float]:
    """Runs the loop; returns its timed chunks and the seconds that the host took between them.

    After every timed call it lets `matmuls` measure a round, whose time is not the host's.
    """
    import jax

    from ti_flax.training.devices import stacked
    from ti_flax.training.loop import Hook, Seat, run_steps
    from ti_flax.training.state import init_state

    class Clock(Hook):
        def __init__(self, measure: Callable[[], None] | None):
            self.chunks, self.between, self._measure = [], 0.0, measure
            self._left = 0.0

        def on_metrics(self, chunk):
            reached = time.perf_counter()
            if self.chunks:
                self.between += reached - self._left - chunk.seconds
                if self._measure is not None:
                    self._measure()
            self.chunks.append(chunk)
            self._left = time.perf_counter()

    def run(steps: int, calls: int, measure: Callable[[], None] | None = None) -> Clock:
        clock = Clock(measure)
        rows = {name: np.zeros((1, width), np.float32) for name, width in step_config.model.widths.items()}
        slots = sender.slots
        run_steps(
            program,
            slots.place(stacked([jax.device_get(init_state(step_config, rows))])),
            arguments,
            seats=[Seat(steps * calls, lambda step: np.full(sender.capacity, 1e-4, np.float32), [clock])],
            slots=slots,
            steps_per_call=steps,
            sender=sender,
        )
        return clock

    first = run(1, 3).chunks[-1].seconds
    clock = run(
        min(sender.capacity, max(1, round(options.seconds / first))), options.calls + 1, matmuls.measure
    )
    # The first call warms up.
    return clock.chunks[1:], clock.between


def memory(program: Any, device: Any) -> dict[str, float]:
    """Gigabytes: what the device measured, and what the compiler plans."""
    import resource

    planned = program.memory_analysis()
    found = {}
    statistics = device.memory_stats()
    if statistics:
        found["peak_device_gb"] = statistics["peak_bytes_in_use"] / 1e9
    else:
        found["peak_process_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    if planned is not None:
        found["planned_arguments_gb"] = planned.argument_size_in_bytes / 1e9
        found["planned_temporary_gb"] = planned.temp_size_in_bytes / 1e9
    return found


def versions() -> dict[str, str]:
    import jax

    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")},
        "backend": jax.local_devices()[0].client.platform_version.split("\n")[0],
    }


def shown(figures: dict[str, Any]) -> str:
    """The figures as lines of text."""
    lines = [
        "{preset}, {resolution} px, batch {batch}, {dtype}, on {devices}",
        "compile        {compile_seconds_cold:.1f} s, from the cache {compile_seconds_warm:.1f} s",
        "step           {step_ms_median:.2f} ms ({step_ms_least:.2f} to {step_ms_most:.2f}), "
        "{steps_per_call} steps a call",
        "samples/s      {samples_per_second:.2f}",
        "work           {tflop:.3f} TFLOP a sample, {floor_ms:.2f} ms a step at the peak",
        "peak           {peak:.3g} TFLOP/s a device: {source}",
        "MFU            {mfu:.1%} of the peak",
        "host           {host_share_between_calls:.2%} of the time is between calls",
        "memory         {memory}",
    ]
    kinds = [
        f"{name[:-3].replace('_', ' ')} {value:.2f} GB" for name, value in figures.items() if "_gb" in name
    ]
    extra = {
        "tflop": figures["flop_per_sample"] / 1e12,
        "peak": figures["flop_per_second_at_peak"] / 1e12,
        "source": peak_source(figures),
        "memory": ", ".join(kinds),
    }
    return "\n".join(lines).format(**figures, **extra)


def peak_source(figures: dict[str, Any]) -> str:
    """Where the peak comes from, in words."""
    rate = f"{figures['flop_per_second_of_matmul'] / 1e12:.3g}"
    if figures["peak_is_published"]:
        return f"published for this device and {figures['dtype']}; large matrix products reached {rate}"
    return "large matrix products on this machine, the median of one round after each timed call"


def main(argv=None) -> None:
    options = parse_arguments(argv)
    figures = measure(options)
    print(shown(figures))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main()))
