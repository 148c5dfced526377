"""What a page says of a run beside its curves and pictures, kept in the run's folder as `run.json`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ti_flax.errors import DataError
from ti_flax.whole_files import written_whole
from ti_flax.written_files import record

FILE = "run.json"


@dataclass(frozen=True)
class RunFacts:
    """A run, as far as its files do not say it already.

    Attributes:
      token: the new word.
      kind: object or style.
      vectors: rows it has.
      width: numbers of a row.
      base: the model's name, as given.
      single_file: whether that is one file.
      start: what the rows were before, in words.
      images: training pictures.
      steps: updates made.
      batch: samples of an update.
      rate: the learning rate, in words.
      devices: what it ran on, in words.
      config: every option, without secrets.
      versions: of the libraries.
      times: seconds of each stage, in order.
      finished: whether the result is written.
    """

    token: str
    kind: str
    vectors: int
    width: int
    base: str
    single_file: bool
    start: str
    images: int
    steps: int
    batch: int
    rate: str
    devices: str
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    finished: bool = False

    def write(self, folder: Path) -> None:
        """Writes the file."""
        record(folder, FILE)
        with written_whole(folder / FILE) as file:
            file.write(json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False).encode())

    @classmethod
    def read(cls, folder: Path) -> RunFacts:
        """Reads the file of a run's folder.

        Raises:
          DataError: there is none, or it is another program's.
        """
        path = folder / FILE
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise DataError(
                path, expected="the folder of a run", found=error.strerror or str(error)
            ) from None
        except (ValueError, TypeError) as error:
            raise DataError(path, expected="what a run of this version wrote", found=str(error)) from None
