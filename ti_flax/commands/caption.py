"""Write a caption beside every image, with a captioning model of transformers or an anime tagger.

    %(prog)s my-images --replace "a cat=<my-cat>" --dry_run
    %(prog)s my-images --replace "a cat=<my-cat>"
    %(prog)s my-drawings --tagger SmilingWolf/wd-vit-tagger-v3 --prefix "<my-style>,"

Then train with `--captions files`. Captioning models need PyTorch (`pip install torch`), and taggers
onnxruntime (`pip install onnxruntime`).
"""

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ti_flax.console.arguments import ArgumentParser
from ti_flax.console.program import exit_code
from ti_flax.errors import ConfigError, DataError, OutputError, WeightsError
from ti_flax.files.atomic import atomic_write

_TAGGER = "SmilingWolf/wd-vit-tagger-v3"

# From images to their captions.
Captioner = Callable[[Sequence[Any]], list[str]]


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", type=Path, help="folder with the images")
    add(
        "--pretrained_model_name_or_path",
        metavar="MODEL",
        default="Salesforce/blip-image-captioning-base",
        help="captioning model: a Hub id or a folder (default: %(default)s)",
    )
    add(
        "--tagger",
        metavar="REPO_OR_FOLDER",
        help=f"write tags instead, with a tagger in ONNX such as {_TAGGER}",
    )
    add("--tag_threshold", metavar="P", type=float, help="least probability of a tag (default: 0.35)")
    add(
        "--character_threshold",
        metavar="P",
        type=float,
        help="of the name of a character (default: that of --tag_threshold)",
    )
    add("--exclude_tags", metavar="TAGS", help='tags to leave out, such as "solo, simple background"')
    add(
        "--keep_rating",
        action="store_true",
        default=None,
        help="write the tagger's rating too, as the last tag",
    )
    add("--prefix", metavar="TEXT", default="", help="put before every caption")
    add("--suffix", metavar="TEXT", default="", help="put behind every caption")
    add(
        "--replace",
        metavar="OLD=NEW",
        action="append",
        default=[],
        help='words to exchange, such as "a cat=<my-cat>"; repeatable',
    )
    add("--max_length", metavar="N", type=int, default=40, help="tokens of a caption (default: %(default)s)")
    add("--num_beams", metavar="N", type=int, default=3, help="of the beam search (default: %(default)s)")
    add("--batch_size", metavar="N", type=int, default=8, help="images at once (default: %(default)s)")
    add("--extension", metavar=".EXT", default=".txt", help="of the text files (default: %(default)s)")
    add("--overwrite", action="store_true", help="write anew what is there already")
    add("--dry_run", action="store_true", help="print the captions and write nothing")
    return parser


def parse_arguments(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    return make_parser(prog).parse_args(argv)


def run(options: argparse.Namespace) -> None:
    """Captions the images of a folder and writes or prints the results."""
    for name in ("max_length", "num_beams", "batch_size"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name}", expected="1 or more", found=str(getattr(options, name)))
    rules = _tag_rules(options)
    exchanges = [_exchange(text) for text in options.replace]
    found = images_of(options.folder)
    extension = f".{options.extension.lstrip('.')}"
    files = {path: path.with_suffix(extension) for path in found}
    if clash := next((path for path, file in files.items() if path == file), None):
        raise ConfigError("--extension", expected="that of a text file", found=f"{extension} of {clash.name}")
    wanted = [path for path, file in files.items() if options.overwrite or not file.exists()]
    if kept := len(found) - len(wanted):
        print(f"{kept} images have a caption already and keep it; --overwrite writes them anew")
    if not wanted:
        return
    captioner = (
        load_tagger(options.tagger, rules)
        if rules is not None
        else load_captioner(
            options.pretrained_model_name_or_path, max_length=options.max_length, num_beams=options.num_beams
        )
    )
    counts = [0] * len(exchanges)
    for path, text in captions_of(wanted, captioner, options.batch_size):
        for index, (old, new) in enumerate(exchanges):
            text, times = old.subn(lambda _, new=new: new, text)
            counts[index] += times > 0
        text = " ".join(f"{options.prefix} {text} {options.suffix}".split())
        print(f"{path.name}: {text}")
        if not options.dry_run:
            _write(files[path], text)
    for text, count in zip(options.replace, counts, strict=True):
        if count < len(wanted):
            old = text.partition("=")[0]
            print(f"note: {old!r} is in {count} of {len(wanted)} captions; the others keep their words")


def _exchange(text: str) -> tuple[re.Pattern[str], str]:
    old, mark, new = text.partition("=")
    if not mark or not old.strip():
        raise ConfigError("--replace", expected="OLD=NEW", found=repr(text))
    return re.compile(rf"(?<!\w){re.escape(old.strip())}(?!\w)", re.IGNORECASE), new.strip()


def _tag_rules(options: argparse.Namespace) -> Any:
    """Which tags images get; None without a tagger."""
    from ti_flax.data.images.tagger import TagRules

    if options.tagger is None:
        for name in ("tag_threshold", "character_threshold", "exclude_tags", "keep_rating"):
            if getattr(options, name) is not None:
                raise ConfigError(
                    f"--{name} requires --tagger", remedy=f"Give --tagger, or leave --{name} out."
                )
        return None
    for name in ("tag_threshold", "character_threshold"):
        value = getattr(options, name)
        if value is not None and not 0 <= value <= 1:
            raise ConfigError(f"--{name}", expected="a probability, 0 to 1", found=f"{value:g}")
    threshold = 0.35 if options.tag_threshold is None else options.tag_threshold
    return TagRules(
        threshold=threshold,
        character_threshold=threshold if options.character_threshold is None else options.character_threshold,
        exclude={tag.strip() for tag in (options.exclude_tags or "").split(",")},
        rating=bool(options.keep_rating),
    )


def load_tagger(name: str, rules: Any) -> Captioner:
    """Loads a tagger, downloaded first where the name is that of a Hub repository.

    Raises:
      ConfigError: onnxruntime is not installed.
      WeightsError: there is no such tagger.
    """
    from ti_flax.data.images.tagger import MODEL, TAGS, Tagger, require_onnxruntime
    from ti_flax.models.weights.hub import resolve_files

    require_onnxruntime()  # before some hundred megabytes are downloaded
    return Tagger(resolve_files(name, (MODEL, TAGS), "tagger", _TAGGER), rules)


def images_of(folder: Path) -> list[Path]:
    """The images of a folder that training would find, each of which can be decoded.

    Raises:
      DataError: there is no such folder, no image in it, or one that cannot be decoded.
    """
    from ti_flax.data.images.load import load_images

    if not folder.is_dir():
        raise DataError(folder, expected="a folder with images", found="no such folder")
    return [Path(path) for path in load_images(folder, resolution=8).paths if path is not None]


def captions_of(paths: Sequence[Path], captioner: Captioner, batch_size: int) -> Iterator[tuple[Path, str]]:
    """Captions images, so many at once; yields each with its path."""
    for first in range(0, len(paths), batch_size):
        batch = paths[first : first + batch_size]
        yield from zip(batch, captioner([_upright(path) for path in batch]), strict=True)


def _upright(path: Path) -> Any:
    from ti_flax.data.images.decode import decode_image

    return decode_image(str(path), str(path))


def load_captioner(name: str, *, max_length: int, num_beams: int) -> Captioner:
    """Loads a captioning model, onto a GPU if there is one.

    Raises:
      ConfigError: PyTorch is not installed.
      WeightsError: there is no such model, or it does not caption images.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ConfigError(
            "captioning",
            expected="the packages torch and transformers",
            found=str(error),
            remedy="Run `pip install torch transformers`.",
        ) from error
    transformers.utils.logging.set_verbosity_error()
    try:
        processor = transformers.AutoProcessor.from_pretrained(name)
        model = transformers.AutoModelForImageTextToText.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(
            name,
            expected="a captioning model of transformers, as a Hub id or a folder",
            found=str(error).strip().splitlines()[0],
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = model.to(device).eval()

    def describe(images: Sequence[Any]) -> list[str]:
        inputs = processor(images=list(images), return_tensors="pt").to(device)
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_length=max_length, num_beams=num_beams, do_sample=False)
        return [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]

    return describe


def _write(file: Path, text: str) -> None:
    try:
        with atomic_write(file) as written:
            written.write(f"{text}\n".encode())
    except OSError as error:
        raise OutputError(file, expected="a file that can be written", found=str(error)) from error


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command with these arguments (None: those of the command line); returns the exit code."""
    return exit_code(lambda: run(parse_arguments(argv, prog)))
