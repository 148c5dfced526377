"""Look at a folder of images and write a commented configuration file that trains on it."""

import argparse
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ti_flax.commands.demo import bundled
from ti_flax.config.presets import PRESETS
from ti_flax.console.arguments import ArgumentParser
from ti_flax.console.program import exit_code, started_alike
from ti_flax.errors import ConfigError, OutputError, printable
from ti_flax.files.atomic import write_text

if TYPE_CHECKING:
    from ti_flax.data.sources.find import Found

SCHEMA = "configs/schema.json"
_SD, _SDXL = "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/stable-diffusion-xl-base-1.0"
# Words that a concept starts as where nobody says a better one.
_STARTS = {"object": "object", "style": "painting"}
# Updates, by model and kind, of the files in configs/; and how often an image is shown at least.
_STEPS = {(False, "object"): 3000, (False, "style"): 3000, (True, "object"): 500, (True, "style"): 1000}
_ACCUMULATED, _LEAST_SHOWN = 4, 100
_LONGEST_WORD = 40
_PRESET_LINES = (
    "# A preset sets optimizer, rate and steps together; what is beside it wins (docs/learning.md):",
    "# careful is where to begin, and ends by itself; quick is short and balanced is longer, on the demo.",
)


@dataclass(frozen=True)
class Images:
    """What is in a folder.

    Attributes:
      count: images.
      squares: whether all are square.
      captions: where captions come from: `files` beside all of them, `metadata`, or `none`.
    """

    count: int
    squares: bool
    captions: str

    @property
    def in_words(self) -> str:
        """How many there are."""
        return "1 image" if self.count == 1 else f"{self.count} images"


@dataclass(frozen=True)
class Plan:
    """What the file says.

    Attributes:
      kind: `object` or `style`.
      folder: of the images, as the file names it.
      name: of the concept.
      model: the base model.
      sdxl: whether that is an SDXL model.
      initializer: known word that the new one starts as; None: nobody has said it.
      images: what is in the folder.
      preset: whose optimizer, rate and steps to take; None: those of the files in configs/.
    """

    kind: str
    folder: str
    name: str
    model: str
    sdxl: bool
    initializer: str | None
    images: Images
    preset: str | None = None

    @property
    def steps(self) -> int:
        """Updates: those of the files in configs/, or as many more as show each image often enough."""
        needed = math.ceil(self.images.count * _LEAST_SHOWN / _ACCUMULATED / 100) * 100
        return max(_STEPS[self.sdxl, self.kind], needed)


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog=prog,
        description="Look at a folder of images and write a commented YAML file that trains on it.",
        usage="%(prog)s --object|--style FOLDER [--initializer_token WORD] [--output FILE] ...",
    )
    kinds = parser.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--object", metavar="FOLDER", type=Path, help="images of one thing, person or place")
    kinds.add_argument("--style", metavar="FOLDER", type=Path, help="images that have a style in common")
    add = parser.add_argument
    add("--initializer_token", metavar="WORD", help="known word for what it is, such as cat or watercolor")
    add(
        "--placeholder_token",
        metavar="TOKEN",
        help="the new word; if left out, from the folder's name: <my-cat> for My Cat",
    )
    add(
        "--pretrained_model_name_or_path",
        metavar="MODEL",
        help=f"base model: a folder, a file or a Hub id; if left out {_SD}",
    )
    add("--sdxl", action="store_true", help=f"the model is one of SDXL; without one, {_SDXL}")
    add("--preset", choices=tuple(PRESETS), help="optimizer, rate and steps that go together")
    add("--output", metavar="FILE", type=Path, help="file to write; if left out NAME.yaml in this folder")
    add("--overwrite", action="store_true", help="replace the file if it is there already")
    return parser


def parse_arguments(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    return make_parser(prog).parse_args(argv)


def run(options: argparse.Namespace) -> None:
    """Writes the file and prints what to do next."""
    kind = "object" if options.object is not None else "style"
    folder = Path(os.path.expanduser(options.object or options.style))
    name = name_of(options.placeholder_token or folder.resolve().name)
    output = options.output or Path(f"{name}.yaml")
    if os.path.lexists(output) and not options.overwrite:
        raise OutputError(
            output,
            expected="a new file",
            found="one that is there already",
            remedy="Name another with --output, or give --overwrite.",
        )
    images = looked_at(folder)
    sdxl = options.sdxl or is_sdxl(options.pretrained_model_name_or_path)
    plan = Plan(
        kind=kind,
        folder=path_in(output, folder),
        name=name,
        model=options.pretrained_model_name_or_path or (_SDXL if sdxl else _SD),
        sdxl=sdxl,
        initializer=options.initializer_token,
        images=images,
        preset=options.preset,
    )
    written = configuration(plan, word=options.placeholder_token or f"<{name}>", file=output)
    try:
        write_text(output, written)
    except (OSError, UnicodeEncodeError) as error:
        found = getattr(error, "strerror", None) or "a name that is no text"
        raise OutputError(output, expected="a file that can be written", found=found.lower()) from None
    print(printable(next_steps(plan, output)))


def name_of(text: str) -> str:
    """The name of a concept from that of a folder, or from its word: `my-cat` for `My Cat` or `<my-cat>`."""
    pieces = re.findall(r"[^\W_]+", text.lower())
    return "-".join(pieces)[:_LONGEST_WORD].strip("-") or "concept"


def looked_at(folder: Path) -> Images:
    """What is in a folder.

    Raises:
      DataError: there are no images in it, or one cannot be read.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}", expected="a folder of images", found="no such folder")
    from ti_flax.data.images.decode import decoded, upright_size
    from ti_flax.data.sources.find import find_images
    from ti_flax.data.sources.table_options import ALL_AS_FOUND

    found = find_images(str(folder), ALL_AS_FOUND)
    sizes = [decoded(image.read(), image.where, upright_size) for image in found.images]
    return Images(len(sizes), all(height == width for height, width in sizes), captions_of(found))


def captions_of(found: "Found") -> str:
    """Where captions come from, if every image has one."""
    from ti_flax.data.images.load import TrainingImages
    from ti_flax.data.training_images import texts_beside

    names = tuple(image.name for image in found.images)
    if all(image.caption for image in found.images):
        return "metadata"
    texts = texts_beside(TrainingImages((), names, found.passed_over))
    with_text = {str(Path(text).with_suffix("")) for text in texts}
    whole = all(name in with_text or str(Path(name).with_suffix("")) in with_text for name in names)
    return "files" if whole else "none"


def is_sdxl(model: str | None) -> bool:
    """Whether a base model is one of SDXL: by its contents where it is here, by its name where it is not.

    Raises:
      WeightsError: it is here, and no model that can be trained.
    """
    if model is None:
        return False
    place = Path(os.path.expanduser(model))
    if not place.exists():
        return "xl" in model.lower()
    from ti_flax.models.weights.hub import resolve_model
    from ti_flax.models.weights.model_source import ModelSource

    return ModelSource(resolve_model(model, components=())).is_sdxl


def path_in(output: Path, folder: Path) -> str:
    """The folder as the file names it: beside the file, or whole where it lies elsewhere."""
    beside = Path(os.path.relpath(folder.resolve(), output.absolute().parent.resolve()))
    return f"./{beside}" if ".." not in beside.parts else str(folder.resolve())


def configuration(plan: Plan, *, word: str, file: Path) -> str:
    """The text of the file."""
    model = "Stable Diffusion XL" if plan.sdxl else "Stable Diffusion"
    article = "an object" if plan.kind == "object" else "a style"
    return "\n".join(
        [
            f"# yaml-language-server: $schema={bundled(SCHEMA).resolve().as_uri()}",
            f"# Learn {article} from {plan.images.in_words} with {model}.",
            "#",
            f"#   {train_command()} --config {file}",
            "#",
            f"# Every option, with its default: {train_command()} --help all",
            "",
            *_model_lines(plan),
            "",
            *_word_lines(plan, word),
            "",
            *_image_lines(plan),
            "",
            *_training_lines(plan),
            "",
            *_output_lines(plan),
            "",
        ]
    )


def _model_lines(plan: Plan) -> list[str]:
    lines = [f"pretrained_model_name_or_path: {scalar(plan.model)}"]
    lines += ["variant: fp16"] if plan.model == _SDXL else []
    return [*lines, "mixed_precision: bf16             # halves the memory of the frozen model"]


def _word_lines(plan: Plan, word: str) -> list[str]:
    start = plan.initializer or _STARTS[plan.kind]
    such = "cat, toy or car" if plan.kind == "object" else "painting, sketch or cartoon"
    return [
        "# The new word, for prompts; the tokenizer must not know it.",
        f"placeholder_token: {scalar(word, quoted=True)}",
        f"# One known word for what it is, such as {such}: the nearer, the better.",
        f"initializer_token: {scalar(start)}",
        f"learnable_property: {plan.kind}",
    ]


def _image_lines(plan: Plan) -> list[str]:
    images = plan.images
    lines = [
        f"train_data_dir: {scalar(plan.folder)}",
        f"resolution: {1024 if plan.sdxl else 512}",
    ]
    if not images.squares and plan.sdxl:
        lines.append("enable_bucket: true               # images keep their proportions")
    elif not images.squares:
        lines.append("center_crop: true                 # cut images to squares instead of squeezing them")
    if images.captions != "none":
        lines.append(f"captions: {images.captions:<24}# each image has one")
    return [*lines, "# flip_p: 0                       # if its mirror image would be another thing"]


def _training_lines(plan: Plan) -> list[str]:
    batch = ["train_batch_size: 1", f"gradient_accumulation_steps: {_ACCUMULATED}"]
    batch += ["gradient_checkpointing: true      # without it, a step needs more than 16 GiB"] * plan.sdxl
    return [*batch, *_PRESET_LINES, f"preset: {plan.preset}"] if plan.preset else _classic_lines(plan, batch)


def _classic_lines(plan: Plan, batch: list[str]) -> list[str]:
    """Rate and steps as the files in configs/ have them."""
    shown = round(plan.steps * _ACCUMULATED / plan.images.count)
    return [
        "# scale_lr multiplies the rate by devices x gradient_accumulation_steps x train_batch_size:",
        f"# 5e-4 x 1 x {_ACCUMULATED} x 1 = 2e-3 on one device.",
        *batch,
        f"# Of {_ACCUMULATED} samples each on one device, these updates show each image about {shown} times;",
        "# auto ends the run when it no longer improves.",
        f"max_train_steps: {plan.steps}",
        "learning_rate: 5e-4",
        "scale_lr: true",
        "lr_scheduler: constant",
    ]


def _output_lines(plan: Plan) -> list[str]:
    prompt = "a photo of a {} on a beach" if plan.kind == "object" else "a house in the style of {}"
    return [
        f"output_dir: {scalar(f'outputs/{plan.name}')}",
        f'# validation_prompt: "{prompt}"   # draws previews, {{}} is the word',
    ]


def scalar(text: str, *, quoted: bool = False) -> str:
    """A text as YAML has it on one line, in quotes where it needs them or always."""
    import yaml

    style = '"' if quoted else None
    written = yaml.safe_dump(
        [text], default_flow_style=True, default_style=style, allow_unicode=True, width=10**6
    )
    return written.strip()[1:-1]


def train_command() -> str:
    """What starts a training for whoever started this program."""
    installed = started_alike("train", "")[0] == "ti-flax"
    return "ti-flax train" if installed else "python train_flax.py"


def next_steps(plan: Plan, output: Path) -> str:
    """What to do with the file."""
    lines = [f"{output}: teaches {plan.kind} {plan.name} from {plan.images.in_words}"]
    if plan.initializer is None:
        start = _STARTS[plan.kind]
        lines.append(f"Set initializer_token in it to a known word for what it is; now it is {start!r}.")
    config = f"{train_command()} --config {_quoted(output)}"
    lines += ["Next, see what it would do, then train:", f"  {config} --dry_run", f"  {config}"]
    return "\n".join(lines)


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command with these arguments (None: those of the command line); returns the exit code."""
    return exit_code(lambda: run(parse_arguments(argv, prog)))
