"""A command as a program: its exit code, and the one line that says why it failed."""

import contextlib
import pathlib
import sys
from collections.abc import Callable

from ti_flax.console.device_trouble import device_trouble, where_asked
from ti_flax.console.notebook import in_notebook
from ti_flax.console.streams import Patient, patient_streams
from ti_flax.errors import START_AGAIN, DeviceError, OutputError, Stopped, TiFlaxError


def exit_code(command: Callable[[], object]) -> int:
    """Runs a command and returns its exit code.

    Standard output and standard error may be closed, and whoever reads them may go: that ends nothing.

    0: done. 2: an error meant for people, one line on stderr. `START_AGAIN`: stopped by a signal, with all
    saved. 130: ended by Ctrl-C, with nothing left to save.
    """
    with patient_streams() as output:
        try:
            code = _run(command)
        except SystemExit as ended:  # after --help, --version and --print_config
            output.flush()
            if ended.code or output.lost is None:
                raise
            code = 0
        output.flush()
        return code or _of_output(output)


def _run(command: Callable[[], object]) -> int:
    try:
        command()
    except TiFlaxError as error:
        for line in str(error).splitlines():  # one, but for the faults of a list of concepts
            _tell(f"error: {line}")
        return 2
    except Stopped as stopped:
        _tell(str(stopped))
        return START_AGAIN
    except Exception as error:
        told = _for_people(error)
        if told is None:
            raise
        _tell(f"error: {told}")
        return 2
    except KeyboardInterrupt:
        _tell("interrupted")
        return 130
    return 0


def _of_output(output: Patient) -> int:
    """The exit code of a command that went well: what it printed may still be lost, as on a full disk."""
    if output.lost is None:
        return 0
    reason = (output.lost.strerror or str(output.lost)).lower()
    _tell(f"error: {OutputError('standard output', expected='a place that can be written', found=reason)}")
    return 2


def _for_people(error: Exception) -> str | None:
    """What a foreign error says in one line; None for one that needs its traceback."""
    trouble = device_trouble(error)
    if trouble is not None:
        return str(DeviceError(where_asked(), *trouble))
    if _is_want_of_memory(error):
        remedy = "Lower train_batch_size, resolution or the number of images."
        return f"not enough memory ({type(error).__name__}). {remedy}"
    return None


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):  # of a terminal that is gone
        print(line, file=sys.stderr, flush=True)


def _is_want_of_memory(error: Exception) -> bool:
    """Tell Python's error and XLA's, which has no class of its own."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def started_alike(command: str, script: str) -> list[str]:
    """The words that start another of our programs for whoever started this one.

    Args:
      command: its name among those of `ti-flax`.
      script: its name in `scripts/`.
    """
    installed = pathlib.PurePath(sys.argv[0]).stem == "ti-flax" or in_notebook()
    return ["ti-flax", command] if installed else ["python", f"scripts/{script}.py"]
