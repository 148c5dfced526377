"""Crop, split, mirror and caption images for training, and show on one sheet first what will be cut.

Each image is cut to the largest box of the wanted shape, placed by what stands out in it: colours unlike
the border's (after R. Achanta et al., CVPR 2009) and edges. The originals are never changed.
"""

import argparse
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ti_flax.console.arguments import ArgumentParser
from ti_flax.console.program import exit_code
from ti_flax.errors import ConfigError, OutputError, one_line
from ti_flax.files.atomic import atomic_write
from ti_flax.files.text import read_text

if TYPE_CHECKING:
    from PIL import Image

    from ti_flax.data.images.focal_crop import Box
    from ti_flax.data.sources.file_names import FilesOnDisk
    from ti_flax.data.sources.source_image import SourceImage

_SUFFIXES = {"png": ".png", "jpg": ".jpg"}
_SAVED_AS = {"png": {"format": "PNG"}, "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0}}
_COLOURS = ("#ff3030", "#20c0ff", "#ffd000", "#40e060", "#ff60ff")
_CELL, _LINE, _COLUMNS, _GAP = 240, 18, 4, 8
# Says in a PNG that it is a sheet of this script, which a later one may replace.
_MARK = ("Software", "ti_flax prepare_images")


@dataclass(frozen=True)
class Cut:
    """One file to be written.

    Attributes:
      image: it is cut from.
      box: of the image.
      file: to write, mirrored or not.
    """

    image: "SourceImage"
    box: "Box"
    file: Path
    mirrored: bool = False


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog=prog,
        description="Crop, split, mirror and caption images for training.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        usage="%(prog)s --train_data_dir SOURCE --output_dir FOLDER [--name value ...]",
    )
    add = parser.add_argument
    add(
        "--train_data_dir",
        metavar="SOURCE",
        action="append",
        required=True,
        help="folder, image, list, link or dataset, as for train_flax.py; repeatable",
    )
    add("--output_dir", metavar="FOLDER", type=Path, required=True, help="folder for the images")
    add(
        "--allow_private_links",
        action="store_true",
        help="download images from links to this machine and to its private network too",
    )
    add("--size", metavar="N|WxH", default="512", help="of the written images, such as 512 or 768x512")
    add("--crop", choices=("focal", "center"), default="focal", help="where an image is cut")
    _add_splitting(add)
    add("--mirror", action="store_true", help="write mirror images as well (training mirrors by itself)")
    add("--caption", metavar="TEXT", help="text of a .txt beside each image that has no caption of its own")
    add(
        "--format",
        choices=tuple(_SUFFIXES),
        default="png",
        help="of the written images; jpg has quality 95",
    )
    add(
        "--sheet", metavar="FILE", type=Path, help="PNG that shows all cuts; OUTPUT_DIR-sheet.png if left out"
    )
    add("--dry_run", action="store_true", help="write the sheet and nothing else")
    add("--overwrite", action="store_true", help="replace files that are there already")
    return parser


def parse_arguments(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    return make_parser(prog).parse_args(argv)


def _add_splitting(add: Callable[..., object]) -> None:
    """Adds the flags for several cuts of one image."""
    add(
        "--split",
        action="store_true",
        help="cut elongated and oversized images into overlapping parts instead of one",
    )
    add(
        "--split_threshold",
        metavar="X",
        type=float,
        default=0.5,
        help="with --split: an image is elongated if one box covers less than this share of it",
    )
    add(
        "--split_scale",
        metavar="X",
        type=float,
        help="with --split: an image is oversized if it would shrink by more than this; "
        "parts shrink by no more",
    )
    add(
        "--overlap_ratio",
        metavar="X",
        type=float,
        default=0.2,
        help="share that a part and the next have in common",
    )


def run(options: argparse.Namespace) -> None:
    """Reads the images, plans, writes the sheet, then the files."""
    from ti_flax.data.sources.file_names import FilesOnDisk
    from ti_flax.data.sources.find import find_images
    from ti_flax.data.sources.links import Spent, fetch_image
    from ti_flax.data.sources.table_options import ALL_AS_FOUND

    size = _size(options)
    fetch = functools.partial(fetch_image, allow_private_links=options.allow_private_links, spent=Spent())
    found = [find_images(source, ALL_AS_FOUND, fetch) for source in options.train_data_dir]
    images = [image for each in found for image in each.images]
    _refuse_output_among(images, options.output_dir)
    sheet = options.sheet or options.output_dir.with_name(f"{options.output_dir.name}-sheet.png")
    _refuse_other_sheet(sheet, options.overwrite)
    stems = _stems(images)
    disk = FilesOnDisk()
    cells, cuts, notes = _planned(images, stems, size, options)
    for note in (*(note for each in found for note in each.notes), *notes):
        print(f"note: {one_line(note)}", flush=True)
    captions = ((cut.file.with_suffix(".txt"), _caption(cut.image, options, disk)) for cut in cuts)
    texts = {file: text for file, text in captions if text}
    if not options.overwrite:
        _refuse_existing([*(cut.file for cut in cuts), *texts])
    try:
        _write_sheet(cells, sheet)
        enlarged = sum(_shrinks(cut.box, size) < 1 for cut in cuts)
        print(f"{sheet}: {len(cuts)} cuts of {len(images)} images, {enlarged} of them enlarged", flush=True)
        if options.dry_run:
            return
        _write(cuts, size, options)
        for file, text in texts.items():
            with atomic_write(file) as written:
                written.write(f"{text}\n".encode())
    except OSError as error:
        where = getattr(error, "filename", None) or options.output_dir
        raise OutputError(where, expected="a file that can be written", found=str(error)) from error
    captions = f", {len(texts)} captions" if texts else ""
    print(f"{options.output_dir}: {len(cuts)} images of {size[0]} x {size[1]}{captions}")


def _planned(
    images: list["SourceImage"], stems: list[Path], size: tuple[int, int], options: argparse.Namespace
) -> tuple[list["Image.Image"], list[Cut], list[str]]:
    """The sheet's cells, what is to be cut, and notes on the images, each of which is held alone."""
    from ti_flax.data.images.decode import decoded, notes_on_images, upright_alone

    cells, cuts, noted = [], [], []
    for source, stem in zip(images, stems, strict=True):
        made = decoded(source.read(), source.where, upright_alone)
        boxes = plan(made.image, size, options)
        cells.append(_cell(made.image, boxes, source.name, size))
        cuts += _cuts(source, boxes, options.output_dir / stem, options)
        noted.append((source.name, made.notes))
    return cells, cuts, notes_on_images(noted)


def _size(options: argparse.Namespace) -> tuple[int, int]:
    """The size of the written images; checks the other numbers as well."""
    sides = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", options.size)
    size = (int(sides[1]), int(sides[2] or sides[1])) if sides else (0, 0)
    if min(size) < 8:
        raise ConfigError(
            "--size", expected="a number such as 512, or two such as 768x512", found=options.size
        )
    for name, least, below in (
        ("split_threshold", 0, 1.000001),
        ("overlap_ratio", 0, 0.9),
        ("split_scale", 1, 1e6),
    ):
        value = getattr(options, name)
        if value is not None and not least <= value < below:
            bounds = f"at least {least}" if name == "split_scale" else f"{least} to {round(below, 3):g}"
            raise ConfigError(f"--{name}", expected=f"a number {bounds}", found=str(value))
    if options.split_scale is not None and not options.split:
        raise ConfigError(
            "--split_scale", expected="to be given with --split", remedy="Give --split as well."
        )
    if options.caption is not None and not options.caption.strip():
        raise ConfigError("--caption", expected="text", found="empty text")
    return size


def _refuse_output_among(images: Iterable["SourceImage"], output: Path) -> None:
    for image in images:
        if image.path is not None and output.resolve() in Path(image.path).resolve().parents:
            raise OutputError(
                f"--output_dir {output}",
                expected="a folder without the images that are read",
                found=image.path,
                remedy="Choose another output_dir.",
            )


def _refuse_other_sheet(sheet: Path, overwrite: bool) -> None:
    """Refuse to replace a file that is no sheet."""
    from PIL import Image

    from ti_flax.files.regular import open_regular

    if overwrite or not sheet.exists():
        return
    try:
        with open_regular(sheet) as file, Image.open(file) as image:
            ours = image.info.get(_MARK[0]) == _MARK[1]
    except Exception:  # no image
        ours = False
    if not ours:
        raise OutputError(f"--sheet {sheet}", expected="a new file", found="one that is no such sheet")


def _refuse_existing(files: list[Path]) -> None:
    there = [file for file in files if file.exists()]
    if there:
        raise OutputError(
            there[0],
            expected="new files",
            found=f"{len(there)} that are there already",
            remedy="Choose another output_dir, or give --overwrite.",
        )


def plan(image: "Image.Image", size: tuple[int, int], options: argparse.Namespace) -> list["Box"]:
    """The boxes to cut from an image: one, or with --split several where it is elongated or oversized."""
    from ti_flax.data.images.focal_crop import center_box, covering_boxes, focal_box

    aspect = size[0] / size[1]
    one = center_box(image, aspect)
    width, height = one.right - one.left, one.bottom - one.top
    elongated = width * height < options.split_threshold * image.width * image.height
    scale = options.split_scale
    oversized = scale is not None and width > scale * size[0]
    if options.split and (elongated or oversized):
        if scale is not None and oversized:
            width, height = scale * size[0], scale * size[1]
        return covering_boxes(image.size, (width, height), options.overlap_ratio)
    return [one if options.crop == "center" else focal_box(image, aspect)]


def _stems(images: list["SourceImage"]) -> list[Path]:
    """Relative paths, without suffix, that differ from one another in letters of any case."""
    taken, stems = set(), []
    for image in images:
        name = re.sub(r"[^\w. ()/+@#,=\[\]{}!&~^-]+|\.\.+", "_", image.name).strip("/") or "picture"
        stem = wanted = str(Path(name).with_suffix("")) if Path(name).suffix else name
        count = 1
        while stem.lower() in taken:
            count += 1
            stem = f"{wanted}_{count}"
        taken.add(stem.lower())
        stems.append(Path(stem))
    return stems


def _cuts(image: "SourceImage", boxes: list["Box"], stem: Path, options: argparse.Namespace) -> list[Cut]:
    cuts = []
    for number, box in enumerate(boxes, start=1):
        name = f"{stem.name}-{number}" if len(boxes) > 1 else stem.name
        for mirrored in (False, True) if options.mirror else (False,):
            suffix = f"{'-mirrored' if mirrored else ''}{_SUFFIXES[options.format]}"
            cuts.append(Cut(image, box, stem.with_name(name + suffix), mirrored))
    return cuts


def _caption(image: "SourceImage", options: argparse.Namespace, disk: "FilesOnDisk") -> str | None:
    """The image's own caption, from its dataset or the .txt beside it, else the one that is given."""
    from ti_flax.data.prompts.captions import text_beside

    if image.caption is not None:
        return image.caption
    beside = text_beside(Path(image.path), (".txt",), disk) if image.path is not None else None
    if beside is None:
        return options.caption
    return read_text(beside).strip() or options.caption


def _shrinks(box: "Box", size: tuple[int, int]) -> float:
    """By what a box is scaled down; below 1 it is enlarged."""
    return (box.right - box.left) / size[0]


def _write(cuts: list[Cut], size: tuple[int, int], options: argparse.Namespace) -> None:
    from PIL import Image, ImageOps

    from ti_flax.data.images.decode import decoded, upright_alone
    from ti_flax.data.images.origin import Origin, exif_of

    opened, read = None, None
    for cut in cuts:
        if opened is not cut.image or read is None:
            opened, read = cut.image, decoded(cut.image.read(), cut.image.where, upright_alone)
        image, before = read.image, read.origin
        # Far too large images are first reduced by whole numbers, to three times the size, then filtered.
        made = image.resize(size, Image.Resampling.LANCZOS, box=cut.box.edges, reducing_gap=3.0)
        origin = Origin(before.size, before.part(cut.box, image.size))
        if cut.mirrored:
            made, origin = ImageOps.mirror(made), origin.mirrored()
        with atomic_write(cut.file) as file:
            made.save(file, exif=exif_of(origin, size), **_SAVED_AS[options.format])


def _cell(image: "Image.Image", boxes: list["Box"], name: str, size: tuple[int, int]) -> "Image.Image":
    """A small copy of an image with its boxes drawn over it, what is lost darkened, and its name above."""
    from PIL import Image, ImageDraw, ImageEnhance, ImageFont

    scale = min(_CELL / image.width, _CELL / image.height)
    shown = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(shown, Image.Resampling.BICUBIC, reducing_gap=3.0)
    lit = ImageEnhance.Brightness(small).enhance(0.35)
    edges = [
        (round(box.left * scale), round(box.top * scale), round(box.right * scale), round(box.bottom * scale))
        for box in boxes
    ]
    for box in edges:
        lit.paste(small.crop(box), (box[0], box[1]))
    draw = ImageDraw.Draw(lit)
    for number, (left, top, right, bottom) in enumerate(edges):
        # Of overlapping boxes each a little further inside, so that all lines are seen.
        inset = 2 * (number % 3)
        corners = (
            left + inset,
            top + inset,
            max(left + inset, right - 1 - inset),
            max(top + inset, bottom - 1 - inset),
        )
        draw.rectangle(corners, outline=_COLOURS[number % len(_COLOURS)], width=2)
    cell = Image.new("RGB", (_CELL, _CELL + 2 * _LINE), "white")
    cell.paste(lit, ((_CELL - shown[0]) // 2, 2 * _LINE + (_CELL - shown[1]) // 2))
    factor = _shrinks(boxes[0], size)
    scaled = f"shrunk {factor:.3g} x" if factor >= 1 else f"enlarged {1 / factor:.3g} x"
    parts = f"{len(boxes)} parts, " if len(boxes) > 1 else ""
    labels = ImageDraw.Draw(cell)
    font = ImageFont.load_default(13)
    short = name if len(name) <= 34 else f"...{name[-31:]}"
    labels.text((0, 0), short, "black", font)
    labels.text((0, _LINE - 2), f"{image.width} x {image.height}, {parts}{scaled}", "#606060", font)
    return cell


def _write_sheet(cells: list["Image.Image"], file: Path) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    columns = min(_COLUMNS, len(cells))
    width, height = _CELL + _GAP, cells[0].height + _GAP
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
    for index, cell in enumerate(cells):
        sheet.paste(cell, (_GAP + index % columns * width, _GAP + index // columns * height))
    mark = PngInfo()
    mark.add_text(*_MARK)
    with atomic_write(file) as written:
        sheet.save(written, format="PNG", pnginfo=mark)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command with these arguments (None: those of the command line); returns the exit code."""
    return exit_code(lambda: run(parse_arguments(argv, prog)))
