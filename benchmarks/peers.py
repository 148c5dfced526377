"""Measure whole training steps beside diffusers' own scripts: same images, same shapes, alternating.

    git clone https://github.com/huggingface/diffusers
    python benchmarks/peers.py --examples diffusers/examples --preset mid --batch 2
    python benchmarks/peers.py --examples diffusers/examples --flax-python ENVIRONMENT/bin/python
    python benchmarks/peers.py --examples diffusers/examples --script sdxl --batch 1

The scripts run unchanged, each in a process of its own that stops after every few steps and waits for its
turn. The model has random weights. The PyTorch script needs torch, accelerate and diffusers here; the Flax
script, which knows no SDXL, needs an environment of its own with diffusers 0.39 and transformers 4.57.6, the
last with Flax classes. Where torchvision is missing, a stand-in does what they use it for: it mirrors an
image with probability p, or cuts a square out of it.
"""

import argparse
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "demo")]

import ti_flax  # noqa: E402, F401  # first: it says so where Python is too old

# isort: split
import numpy as np  # noqa: E402
from help_format import HelpFormatter  # noqa: E402

from ti_flax.console.arguments import ArgumentParser  # noqa: E402
from ti_flax.console.program import exit_code  # noqa: E402
from ti_flax.errors import ConfigError  # noqa: E402

_IMAGES = 5
# The first is measured where none is named.
PRESETS = {
    "sd": ("mid", "tiny", "odd-shallow", "odd-deep", "sd15", "sd21"),
    "sdxl": ("sdxl-mid", "sdxl-tiny", "sdxl"),
}
REFERENCE = {
    "sd": {"pytorch": "textual_inversion.py", "flax": "textual_inversion_flax.py"},
    "sdxl": {"pytorch": "textual_inversion_sdxl.py"},
}


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = ArgumentParser(
        description="Measure whole training steps beside diffusers' own scripts.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--examples", type=Path, required=True, metavar="DIR", help="examples folder of a diffusers checkout")
    add(
        "--flax-python",
        metavar="PYTHON",
        help="Python of an environment with diffusers 0.39; without it the Flax script does not take part",
    )
    add("--script", choices=REFERENCE, default="sd", help="which scripts: for SD 1.x and 2.x, or for SDXL")
    add(
        "--preset",
        choices=[name for names in PRESETS.values() for name in names],
        help="shapes of the model; by default mid or sdxl-mid",
    )
    add("--batch", type=int, default=2, help="samples per step")
    add("--resolution", type=int, help="side of the images; by default the preset's")
    add("--segment", type=int, default=10, help="steps of a turn")
    add("--turns", type=int, default=6, help="timed turns of each script")
    add(
        "--wait",
        type=float,
        default=3600,
        metavar="SECONDS",
        help="how long a turn may take, compilation included",
    )
    add(
        "--mixed_precision",
        choices=("no", "bf16"),
        default="no",
        help="precision of our script and the PyTorch script",
    )
    add("--work", type=Path, default=ROOT / "build" / "peers", help="folder for model, images and output")
    add("--json", type=Path, metavar="FILE", help="write the figures to this file")
    return parser.parse_args(argv)


@dataclass
class Script:
    """A training script in a process of its own that takes turns with others.

    Attributes:
      name: as it is shown.
      command: interpreter, script and its options.
      environment: besides this process's.
      log: where its output goes.
      steps: of a turn.
      total: that it is told to make.
      wait: seconds that a turn may take.
      times: seconds of each timed turn.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    steps: int
    total: int
    wait: float
    times: list[float] = field(default_factory=list)
    process: subprocess.Popen | None = None

    def start(self) -> None:
        """Starts it and waits for the end of its first turn, which compiles and warms up."""
        reading, writing = os.pipe()
        interpreter, *script = self.command
        runner = [interpreter, str(ROOT / "benchmarks" / "timed_script.py")]
        runner += [str(self.steps), str(self.total), *script]
        environment = os.environ | self.environment | {"TIMED_SCRIPT_PIPE": str(writing)}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                runner, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, pass_fds=[writing]
            )
        os.close(writing)
        self._report = os.fdopen(reading)
        self._ended()

    def turn(self, *, timed: bool) -> None:
        """Lets it make the steps of one turn."""
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()
        seconds = self._ended()
        if timed:
            self.times.append(seconds)

    def stop(self) -> None:
        """Ends it, however far it is."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self._report):
                if pipe is not None:
                    pipe.close()

    def _ended(self) -> float:
        if not select.select([self._report], [], [], self.wait)[0]:
            found = f"none of its {self.steps} steps within {self.wait:g} s"
            remedy = f"See {self.log}, or raise --wait."
            raise ConfigError(f"the {self.name} script", expected="to train", found=found, remedy=remedy)
        line = self._report.readline().split()
        if not line:
            last = self.log.read_text(errors="replace").strip().splitlines()[-1:]
            raise ConfigError(
                f"the {self.name} script",
                expected="to train",
                found=" ".join(last),
                remedy=f"See {self.log}.",
            )
        if int(line[1]) != self.steps:
            raise ConfigError(f"the {self.name} script", expected=f"{self.steps} steps", found=line[1])
        return float(line[2])


def write_materials(options: argparse.Namespace) -> dict[str, Path]:
    """Writes images and a random model, for PyTorch and the old Flax classes; returns the folders."""
    from PIL import Image
    from presets import preset, write_tokenizer_of

    from ti_flax.models.stable_diffusion import random_stable_diffusion, save_stable_diffusion

    layouts = ("torch", "flax") if "flax" in REFERENCE[options.script] else ("torch",)
    folders = {name: options.work / name for name in ("images", *layouts)}
    folders["images"].mkdir(parents=True, exist_ok=True)
    rng, side = np.random.default_rng(0), options.resolution
    for index in range(_IMAGES):
        noise = rng.integers(0, 256, (side // 8, side // 8, 3), np.uint8)
        Image.fromarray(noise).resize((side, side)).save(folders["images"] / f"{index}.png")
    model = random_stable_diffusion(preset(options.preset), seed=0)
    tokens = model.text_encoder.config.vocab_size
    for layout in layouts:
        save_stable_diffusion(model, folders[layout], layout=layout, eos_token_id=tokens - 1)
        write_tokenizer_of(folders[layout] / "tokenizer", tokens)
        if model.is_sdxl:
            write_tokenizer_of(folders[layout] / "tokenizer_2", tokens, second=True)
    return folders


def scripts(options: argparse.Namespace, folders: dict[str, Path]) -> list[Script]:
    """The scripts that take part."""
    examples = options.examples / "textual_inversion"
    reference = REFERENCE[options.script]
    for name in reference.values():
        if not (examples / name).is_file():
            raise ConfigError("--examples", expected=f"textual_inversion/{name} in it", found=str(examples))
    steps, turns = options.segment, options.turns + 3
    common = {
        "train_data_dir": folders["images"],
        "placeholder_token": "<new>",
        "initializer_token": "photo",
        "resolution": options.resolution,
        "train_batch_size": options.batch,
        "max_train_steps": steps * turns,
        "learning_rate": 5e-4,
        "save_steps": 10**6,
        "seed": 0,
    }
    precision = {"mixed_precision": options.mixed_precision}
    never = {"checkpointing_steps": 10**6}

    def made(name, python, script, model, extra, **environment):
        values = common | extra | {"output_dir": options.work / f"output-{name}"}
        values["pretrained_model_name_or_path"] = folders[model]
        flags = [f"--{key}={value}" for key, value in values.items()]
        environment = {"HF_HUB_OFFLINE": "1"} | environment
        log = options.work / f"{name}.log"
        command = [python, str(script), *flags]
        return Script(name, command, environment, log, steps, steps * turns, options.wait)

    ours = never | precision | {"steps_per_call": steps, "latents_cache_dir": options.work / "cache"}
    ours |= {"only_save_embeds": "true", "overwrite_output_dir": "true", "report_to": "none"}
    ours |= {"eval_steps": 0}
    peer = {"TIMED_SCRIPT_OF_DIFFUSERS": "1"}
    script = examples / reference["pytorch"]
    found = [
        made("ours", sys.executable, ROOT / "train_flax.py", "torch", ours, TIMED_SCRIPT_AT="hook"),
        made("pytorch", sys.executable, script, "torch", never | precision, **peer),
    ]
    if options.flax_python:
        # As many images in an epoch as a turn has samples, so that it reports each turn.
        repeats = {"repeats": max(1, steps * options.batch // _IMAGES)}
        script = examples / reference["flax"]
        peer["TIMED_SCRIPT_AT"] = "write"
        found.append(made("flax", options.flax_python, script, "flax", repeats, **peer))
    for each in found[1:]:
        _note_torchvision(each.command[0])
    return found


def _note_torchvision(python: str) -> None:
    check = subprocess.run([python, "-c", "import torchvision.transforms"], capture_output=True)
    if check.returncode != 0:
        print(f"note: {python} has no torchvision; a stand-in mirrors and cuts images", file=sys.stderr)


def check_script(options: argparse.Namespace) -> None:
    """Fills in the preset, and refuses what does not go with the scripts."""
    presets = PRESETS[options.script]
    options.preset = options.preset or presets[0]
    if options.preset not in presets:
        expected = f"one of {', '.join(presets)} with --script {options.script}"
        raise ConfigError("--preset", expected=expected, found=options.preset)
    if options.flax_python and "flax" not in REFERENCE[options.script]:
        raise ConfigError(
            "--flax-python", expected=f"none with --script {options.script}", remedy="Leave it out."
        )


def take_turns(running: Sequence[Script], turns: int) -> None:
    """Times the scripts, one turn each in every round, after a round that does not count."""
    for script in running:
        began = time.perf_counter()
        script.start()
        print(f"{script.name}: first turn after {time.perf_counter() - began:.0f} s", file=sys.stderr)
    for turn in range(turns + 1):
        for script in running:
            script.turn(timed=turn > 0)


def main(argv=None) -> None:
    from presets import RESOLUTIONS

    options = parse_arguments(argv)
    check_script(options)
    options.resolution = options.resolution or RESOLUTIONS[options.preset]
    if options.segment * options.batch % _IMAGES:
        raise ConfigError("--segment", expected=f"segment x batch to be a multiple of {_IMAGES}")
    running = scripts(options, write_materials(options))
    try:
        take_turns(running, options.turns)
    finally:
        for script in running:
            script.stop()
    samples = options.segment * options.batch
    rates = {script.name: samples / np.array(script.times) for script in running}
    for name, rate in rates.items():
        print(f"{name:8} {np.median(rate):8.3f} samples/s ({rate.min():.3f} to {rate.max():.3f})")
    medians = {name: float(np.median(rate)) for name, rate in rates.items()}
    others = [name for name in medians if name != "ours"]
    line = [f"{name} {medians[name]:.3f}" for name in ("ours", *others)]
    line += [f"ratio-{name} {medians['ours'] / medians[name]:.2f}" for name in others]
    print("samples/s", *line)
    if options.json:
        options.json.write_text(json.dumps({name: list(rate) for name, rate in rates.items()}, indent=2))


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main()))
