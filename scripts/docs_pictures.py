"""Draw the pictures of docs/tutorial.md: run the demo, and take its images and its page.

    python scripts/docs_pictures.py

It takes as long as the demo, and needs chromium for the page.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import ti_flax  # noqa: E402  # first: it says so where Python is too old

# isort: split
from PIL import Image  # noqa: E402

from ti_flax.console.arguments import ArgumentParser  # noqa: E402
from ti_flax.console.program import exit_code  # noqa: E402
from ti_flax.errors import ConfigError  # noqa: E402
from ti_flax.files.atomic import atomic_write  # noqa: E402

# Pixels: the widest picture, the window in which the page is shown, and between training images.
WIDEST, WINDOW, GAP = 1000, (1100, 1250), 8
# Few enough for small files; the demo's images have flat colours.
COLOURS = 128
# Seconds that the browser may take.
PATIENCE = 120


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--output_dir", metavar="FOLDER", type=Path, default=ROOT / "docs" / "images", help="for the pictures"
    )
    add("--run", metavar="FOLDER", type=Path, help="a finished run of the demo, in place of a new one")
    add("--browser", metavar="PROGRAM", default="chromium", help="what shows the page (chromium)")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> None:
    """Runs the demo and writes the pictures.

    Raises:
      ConfigError: there is no such browser, or it shows nothing.
    """
    options.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = ti_flax.load_config(ROOT / "configs" / "demo.yaml", output_dir=str(folder / "demo"))
        sheet = ti_flax.train(config.replace(dry_run=True))
        finished = options.run or ti_flax.train(config)
        page = folder / "page.png"
        photograph(options.browser, finished / "report.html", page)
        images = sorted((ROOT / "assets" / "demo-images").glob("*.png"))
        pictures = {"training-images": side_by_side(images), "dry-run": Image.open(sheet)}
        pictures |= {"previews": Image.open(finished / "contact_sheet.png"), "report": Image.open(page)}
        for name, picture in pictures.items():
            print(save(picture, options.output_dir / f"{name}.png"))


def side_by_side(paths: Sequence[Path]) -> Image.Image:
    """Images of one size in a row, each twice as large, on white."""
    images = [Image.open(path).convert("RGB") for path in paths]
    width, height = images[0].width * 2, images[0].height * 2
    row = Image.new("RGB", ((width + GAP) * len(images) - GAP, height), "white")
    for place, image in enumerate(images):
        row.paste(image.resize((width, height), Image.Resampling.NEAREST), ((width + GAP) * place, 0))
    return row


def photograph(browser: str, page: Path, picture: Path) -> None:
    """Shows the top of a page in a browser without a window, and keeps it as a picture."""
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-background-networking",
    ]
    flags += [f"--user-data-dir={picture.parent / 'browser'}", f"--screenshot={picture}"]
    flags += [f"--window-size={WINDOW[0]},{WINDOW[1]}", page.resolve().as_uri()]
    try:
        subprocess.run([browser, *flags], capture_output=True, timeout=PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        found = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigError(
            "--browser", expected="a browser such as chromium", found=f"{browser}: {found}"
        ) from None
    if not picture.is_file():
        raise ConfigError("--browser", expected="a picture of the page", found=f"none from {browser}")


def save(picture: Image.Image, path: Path) -> Path:
    """Writes a picture as a small PNG file."""
    picture = picture.convert("RGB")
    picture.thumbnail((WIDEST, 10 * WIDEST))
    small = picture.quantize(COLOURS, dither=Image.Dither.NONE)
    with atomic_write(path) as file:
        small.save(file, format="PNG", optimize=True)
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program with these arguments (None: those of the command line); returns the exit code."""
    return exit_code(lambda: run(parse_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
