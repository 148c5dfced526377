"""Work folders of the page, and its server in a process of its own."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from ti_flax.web.form import Form
from ti_flax.web.runs.processes import environment
from ti_flax.web.work_folder import WorkFolder

ASSETS = Path(__file__).resolve().parents[2] / "assets"


def work_in(folder, allowed=()):
    """The page's folder, with one set of images."""
    work = WorkFolder.made(folder, tuple(allowed), ASSETS / "demo-model", ASSETS / "demo-images")
    shutil.copytree(work.demo_images, work.images / "set")
    return work


def form(**changes):
    """What somebody fills in who teaches the demo's ring."""
    options = {"placeholder_token": "<ruby>", "initializer_token": "ring", "preset": "quick"}
    options |= changes.pop("options", {})
    return Form(**{"model": "the demo's model", "images": "images/set", "options": options} | changes)


@contextlib.contextmanager
def served(folder, **options):
    """Serves the page of a work folder in a process of its own, and yields its address and the process.

    Args:
      folder: a folder for `work_in`.
      options: of page_server.py.
    """
    script = Path(__file__).with_name("page_server.py")
    told = json.dumps({"folder": str(folder), **options})
    with subprocess.Popen(
        [sys.executable, str(script), told], stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()
