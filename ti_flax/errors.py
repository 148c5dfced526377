"""Errors meant for people: where it happened, what was expected, what was found, what to do."""

import contextlib
import sys
from collections.abc import Callable

from ti_flax.device_trouble import device_trouble, where_asked
from ti_flax.printable import printable, shortened
from ti_flax.streams import Patient, patient_streams

# EX_TEMPFAIL of sysexits.h: a failure that passes, so whoever started the program may start it again.
START_AGAIN = 75


class TiFlaxError(Exception):
    """Base of every error that prints as one line and ends the program with exit code 2.

    Args:
      where: the file, option or object at fault.
      expected: what would have been right.
      found: what was there instead.
      remedy: what the reader can do about it, a full sentence.
    """

    def __init__(self, where: object, *, expected: str = "", found: str = "", remedy: str = ""):
        parts = []
        if expected:
            parts.append(f"expected {expected}")
        if found:
            parts.append(f"found {shortened(found)}")
        place = shortened(str(where))
        sentence = f"{place}: {', '.join(parts)}" if parts else place
        if remedy:
            sentence = f"{sentence.rstrip('.')}. {remedy}"
        super().__init__(printable(" ".join(sentence.split())))


class ConfigError(TiFlaxError):
    """An option or configuration file is unknown, missing, mistyped or contradictory."""


class TokenError(TiFlaxError):
    """A placeholder or initializer does not fit the tokenizer."""


class DataError(TiFlaxError):
    """Training images cannot be found or decoded."""


class WeightsError(TiFlaxError):
    """A model folder is incomplete, unsupported, or does not fit its configuration."""


class CheckpointError(TiFlaxError):
    """A checkpoint cannot be read, or belongs to another run."""


class OutputError(TiFlaxError):
    """A result cannot be written, or would overwrite a finished one."""


def unwritable(folder: object, error: OSError) -> OutputError:
    """The error of an output folder that cannot be made or filled."""
    return OutputError(
        folder,
        expected="a folder that can be written",
        found=(error.strerror or str(error)).lower(),
        remedy="Choose another output_dir.",
    )


def in_short(error: BaseException) -> str:
    """The first line of what an error says, or its class where it says nothing."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


class DeviceError(TiFlaxError):
    """There is no device to compute on, or it cannot be used."""

    def __init__(self, where: object, found: str, remedy: str):
        super().__init__(where, expected="a device that JAX can use", found=found, remedy=remedy)


class TrainingError(TiFlaxError):
    """Training produced values that cannot be used."""


class Stopped(KeyboardInterrupt):
    """The run was asked to end before it was done; the same command, started again, goes on."""


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
        _tell(f"error: {error}")
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
        remedy = "Lower train_batch_size, resolution or the number of pictures."
        return f"not enough memory ({type(error).__name__}). {remedy}"
    return None


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):  # of a terminal that is gone
        print(line, file=sys.stderr, flush=True)


def _is_want_of_memory(error: Exception) -> bool:
    """Tell Python's error and XLA's, which has no class of its own."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
