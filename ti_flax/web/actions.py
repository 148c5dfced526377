"""What the page's buttons do, through the command line and runs' folders alone."""

from __future__ import annotations

import dataclasses
import io
import tempfile
import threading
from pathlib import Path
from typing import Any

from ti_flax.errors import ConfigError, DataError, OutputError, TiFlaxError
from ti_flax.files.regular import read_regular
from ti_flax.web.form import Form, resumed
from ti_flax.web.runs.processes import Program, output_of
from ti_flax.web.runs.view import OUTPUT
from ti_flax.web.work_folder import WorkFolder

# Seconds that a dry run or a crop may take: of a model on the Hub, config files are downloaded.
_PATIENCE = 300.0
_LARGEST_IMAGE = 2**28
# Stand in for a word that is not there yet when images are looked at.
_NO_WORD = {"placeholder_token": "<new-word>"}
_NO_START = {"initializer_mode": "random"}
_STARTING = threading.Lock()


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
    """Starts a run; the name of its folder.

    Raises:
      TiFlaxError: an option is wrong, or a run is at work.
    """
    with _STARTING:
        refuse_second(work)
        folder = work.new_run(form.options.get("placeholder_token") or "")
        try:
            Program(folder).start(form.arguments(work, folder / OUTPUT), work.root)
        except TiFlaxError:
            folder.rmdir()
            raise
        return folder.name


def go_on(work: WorkFolder, name: str | None) -> str:
    """Goes on with a run that was stopped; its name.

    Raises:
      TiFlaxError: there is none, or a run is at work.
    """
    folder = work.run(name)
    started = None if folder is None else Program(folder).started
    if folder is None or started is None:
        raise ConfigError("run", expected="a run that was started here", found=repr(name or "none"))
    with _STARTING:
        refuse_second(work)
        Program(folder).start(resumed(started.arguments), work.root)
    return folder.name


def stop(work: WorkFolder, name: str | None) -> str:
    """Asks a run to save and end; what happens now, in a sentence."""
    folder = work.run(name)
    if folder is not None and Program(folder).ask_to_end():
        return "The run stops after the updates under way, and saves."
    return "No run is at work here."


def refuse_second(work: WorkFolder) -> None:
    """Refuses to start a run beside another, as a TPU or GPU serves one.

    Raises:
      OutputError: names the one that is at work.
    """
    busy = at_work(work)
    if busy is not None:
        raise OutputError(
            "run",
            expected="no other at work",
            found=busy,
            remedy="Stop it, or wait until it is done: a TPU or GPU serves one run.",
        )


def at_work(work: WorkFolder) -> str | None:
    """The run that is at work; None if there is none."""
    return next((name for name in work.run_names() if Program(work.runs / name).is_at_work), None)
