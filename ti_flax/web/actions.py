"""What the page's buttons do, through the command line and runs' folders alone."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import tempfile
from pathlib import Path
from typing import Any

from ti_flax.errors import ConfigError, DataError, TiFlaxError
from ti_flax.files.regular import read_regular
from ti_flax.web.form import Form, resumed
from ti_flax.web.runs.processes import Program, output_of
from ti_flax.web.runs.view import OUTPUT
from ti_flax.web.runs.waiting import Queue
from ti_flax.web.work_folder import WorkFolder

# Seconds that a dry run or a crop may take: of a model on the Hub, config files are downloaded.
_PATIENCE = 300.0
_LARGEST_IMAGE = 2**28
# Stand in for a word that is not there yet when images are looked at.
_NO_WORD = {"placeholder_token": "<new-word>"}
_NO_START = {"initializer_mode": "random"}


def look(work: WorkFolder, form: Form) -> tuple[Any, str]:
    """What a run of this form would do: the sheet of its images, a PIL image, and its words.

    Raises:
      TiFlaxError: what the run would end with.
    """
    options = {name: value for name, value in form.options.items() if (value or "").strip()}
    if "placeholder_token" not in options:
        options = _NO_WORD | options
    if "initializer_token" not in options:
        options |= _NO_START
    form = dataclasses.replace(form, options=options)
    with tempfile.TemporaryDirectory(dir=work.root / "looks") as place:
        output = Path(place) / OUTPUT
        arguments = form.arguments(work, output)
        said = _answer([*arguments, "--dry_run"], work)
        sheet = output.with_name(f"{OUTPUT}.dry_run.png")
        return png(sheet), said.replace(f"{place}/", "")


def cropped(work: WorkFolder, images: str | None, size: str) -> tuple[Path, Any]:
    """Cuts images to squares around what stands out in them; where they are now, and a sheet of the cuts.

    Raises:
      TiFlaxError: an image cannot be read, or the size is none.
    """
    source, target = work.image_folder(images), work.new_images()
    with tempfile.TemporaryDirectory(dir=work.root / "looks") as place:
        sheet = Path(place) / "sheet.png"
        told = [f"--train_data_dir={source}", f"--output_dir={target}", f"--size={size.strip() or 512}"]
        try:
            _answer(["prepare", *told, "--crop=focal", f"--sheet={sheet}"], work)
        except TiFlaxError:
            target.rmdir()
            raise
        return target, png(sheet)


def _answer(arguments: list[str], work: WorkFolder) -> str:
    """What a command says if it goes well.

    Raises:
      TiFlaxError: the line that it ends with.
    """
    code, told, noted = output_of(arguments, work.root, _PATIENCE)
    lines = noted.splitlines()
    if code == 0:
        return "\n".join([*[line for line in lines if line.startswith("note: ")], told.strip()])
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    raise TiFlaxError(
        errors[-1] if errors else f"ti-flax {arguments[0]} ended with code {code}: {noted[-300:]}"
    )


def png(path: Path) -> Any:
    """An image that we or a run wrote, a PIL image.

    Raises:
      DataError: it is none.
    """
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(read_regular(path, _LARGEST_IMAGE)), formats=["PNG"])
        image.load()
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(path.name, expected="an image", found=str(error)) from None
    return image


def start(work: WorkFolder, form: Form) -> str:
    """Starts a run, or lets it wait for the one at work; the name of its folder.

    Raises:
      TiFlaxError: an option is wrong, or the queue is damaged.
    """
    folder = work.new_run(form.options.get("placeholder_token") or "")
    try:
        Queue(work.root).start(folder.name, form.arguments(work, folder / OUTPUT))
    except TiFlaxError:
        folder.rmdir()
        raise
    return folder.name


def go_on(work: WorkFolder, name: str | None) -> str:
    """Goes on with a run that was stopped, or lets it wait for the one at work; its name.

    Raises:
      TiFlaxError: there is none, it is at work or waits, or the queue is damaged.
    """
    folder = work.run(name)
    started = None if folder is None else Program(folder).started
    if folder is None or started is None:
        raise ConfigError("run", expected="a run that was started here", found=repr(name or "none"))
    Queue(work.root).start(folder.name, resumed(started.arguments))
    return folder.name


def stop(work: WorkFolder, name: str | None) -> str:
    """Asks a run to save and end, or takes it out of the queue; what happens now, in a sentence.

    Raises:
      TiFlaxError: the queue is damaged.
    """
    folder = work.run(name)
    if folder is not None and Queue(work.root).take_out(folder.name):
        with contextlib.suppress(OSError):  # of one that has been at work before, all stays
            folder.rmdir()
        return f"{folder.name} no longer waits."
    if folder is not None and Program(folder).ask_to_end():
        return "The run stops after the updates under way, and saves."
    return "No run is at work here."
