"""Take pictures of the page that `ti-flax web` serves: on a wide screen, on a narrow one, and in the dark.

    python scripts/web_screenshots.py

It teaches the demo's word on the page first, which takes about a minute. It needs Playwright and chromium.
"""

import argparse
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import ti_flax  # noqa: E402, F401  # first: it says so where Python is too old

# isort: split
from docs_pictures import save  # noqa: E402
from PIL import Image  # noqa: E402

from ti_flax.console.arguments import ArgumentParser  # noqa: E402
from ti_flax.console.program import exit_code  # noqa: E402
from ti_flax.errors import ConfigError, OutputError  # noqa: E402
from ti_flax.web.form import Form  # noqa: E402
from ti_flax.web.runs.view import OUTPUT, look_at  # noqa: E402
from ti_flax.web.work_folder import DEMO_IMAGES, DEMO_MODEL, WorkFolder  # noqa: E402

# Pixels: the window of each picture; heights are those of the whole page.
WINDOWS = {"wide": (1280, 900), "narrow": (390, 844), "dark": (1280, 900)}
# Seconds that a run may take, and milliseconds for anything on the page.
PATIENCE, WAIT = 1200, 120_000
# The part of the page that docs/web.md shows, from one heading to another.
_SHOWN = ("5. Run", "7. Use it")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output_dir", metavar="FOLDER", type=Path, default=Path("web-screenshots"), help="for the pictures")
    add("--run", metavar="FOLDER", type=Path, help="a finished run of the demo, in place of a new one")
    add("--browser", metavar="PROGRAM", default="chromium", help="what shows the page (chromium)")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> None:
    """Serves a page with a run on it and writes the pictures.

    Raises:
      ConfigError: there is no Playwright or no such browser.
      OutputError: the run did not end well.
    """
    browser = shutil.which(options.browser)
    if browser is None:
        raise ConfigError("--browser", expected="a browser such as chromium", found=options.browser)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise ConfigError(
            "web_screenshots.py",
            expected="the Python package playwright",
            found="that it is not installed",
            remedy="Install it: pip install playwright.",
        ) from None
    options.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        demo = ROOT / "assets" / "demo-model", ROOT / "assets" / "demo-images"
        work = WorkFolder.made(Path(name) / "work", (), *demo)
        taught(work, options.run)
        with served(work) as address, sync_playwright() as playwright:
            started = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            for name, (width, height) in WINDOWS.items():
                scheme = "dark" if name == "dark" else "light"
                page = started.new_page(
                    viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
                )
                page.set_default_timeout(WAIT)
                page.goto(address)
                fill(page)
                picture = options.output_dir / f"{name}.png"
                page.screenshot(path=picture, full_page=True)
                print(picture)
                if name == "wide":
                    print(save(part(page, picture), options.output_dir / "web.png"))
            started.close()


def taught(work: WorkFolder, finished: Path | None) -> None:
    """Puts a run of the demo into the work folder."""
    from ti_flax.web import actions

    if finished is not None:
        shutil.copytree(finished, work.runs / "ruby" / OUTPUT)
        return
    options = {"placeholder_token": "<ruby>", "initializer_token": "ring", "preset": "balanced"}
    options |= {"resolution": "64", "train_batch_size": "8", "validation_steps": "20"}
    options |= {"num_validation_images": "4", "flip_p": "0"}
    name = actions.start(work, Form(DEMO_MODEL, DEMO_IMAGES, options, previews="a photo of a {}"))
    ends = time.monotonic() + PATIENCE
    while (seen := look_at(work.runs / name)).at_work and time.monotonic() < ends:
        time.sleep(1)
    if not seen.finished:
        raise OutputError("run", expected="one that ends well", found=seen.state)


@contextmanager
def served(work: WorkFolder) -> Iterator[str]:
    """Serves the page on a free port; its address."""
    from ti_flax.web.server import Serving, launched
    from ti_flax.web.words import warm_up

    warm_up(str(work.demo_model))
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port = tried.getsockname()[1]
    blocks, address, _ = launched(work, Serving("127.0.0.1", port))
    try:
        yield address
    finally:
        blocks.close(verbose=False)


def fill(page: Any) -> None:
    """Fills in what somebody would, and waits until the run is shown."""
    page.wait_for_selector("#start")
    for name, text in (("images", DEMO_IMAGES), ("placeholder", "<ruby>"), ("initializer", "ring")):
        field = page.locator(f"#{name} input, #{name} textarea").first
        field.fill(text)
        field.press("Enter" if name == "images" else "Tab")
    page.wait_for_selector("#charts svg")
    # Browsers load an image once it is near what is seen of the page.
    page.locator("#preview").scroll_into_view_if_needed()
    page.wait_for_selector("#preview img")
    page.locator("#word-look code").first.wait_for()
    page.locator("#reader label").first.click()
    page.wait_for_selector("#files a")
    page.mouse.move(0, 0)
    page.wait_for_timeout(1000)


def part(page: Any, picture: Path) -> Image.Image:
    """The part of a picture of the whole page that the documentation shows."""
    top, bottom = (
        page.get_by_role("heading", name=name).first.bounding_box()["y"] + page.evaluate("window.scrollY")
        for name in _SHOWN
    )
    image = Image.open(picture).convert("RGB")
    middle, half = image.width // 2, 460
    return image.crop((middle - half, int(top) - 12, middle + half, int(bottom) - 12))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program with these arguments (None: those of the command line); returns the exit code."""
    return exit_code(lambda: run(parse_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
