"""Sharing a run on the Hugging Face Hub: checked at its start, sent at checkpoints and at its end."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ti_flax.config.options import HubOptions
from ti_flax.console.messages import say, stage, warn
from ti_flax.console.program import started_alike
from ti_flax.errors import OutputError
from ti_flax.export.hub_files import (
    REPLACED,
    checkpoint_files,
    megabytes,
    pipeline_files,
    result_files,
)
from ti_flax.export.hub_process import Answer, Failure, HubProcess
from ti_flax.files.folder_files import LINK_REMEDY, LeavingLinkError, copy_folder, files_of
from ti_flax.training.checkpoint import LAST_ON_HUB, checkpoint_steps
from ti_flax.training.loop import Chunk, Hook
from ti_flax.training.state import TrainState

# The most time that a question at the start takes, and an upload without its megabytes.
CHECK_SECONDS = 30.0
UPLOAD_SECONDS = 300.0
# Seconds between the attempts of an upload that may go well a little later.
PAUSES = (2.0, 8.0)

# Writes what is shared of a state after so many updates into a folder.
Fill = Callable[[Path, int, TrainState], None]


def settle_repository(hub: HubOptions, output_dir: Path) -> str | None:
    """Makes the repository and finds out whether it can be written, before any work is done for it.

    Returns:
      The repository's full name; None if the Hub cannot be reached.

    Raises:
      OutputError: the Hub refuses.
    """
    name, answer = repository_name(hub, output_dir), open_repository(hub, output_dir)
    if answer.failure is None:
        seen = "private" if answer.private else "public"
        shown = ", with small copies of training images" if hub.hub_concept_images else ""
        say(f"the result goes to {answer.url} ({seen}){shown}")
        return answer.repo_id
    if not answer.failure.temporary:
        raise refusal(name, answer.failure)
    warn(f"upload to {name}: found {answer.failure.found}; the run goes on and tries again at its end")
    return None


def open_repository(hub: HubOptions, output_dir: Path) -> Answer:
    """Makes the repository of a run's folder if there is none, and finds out whether it can be written."""
    name = repository_name(hub, output_dir)
    request = {"action": "check", "repo_id": name, "private": hub.hub_private_repo}
    with stage("asking the Hub"):
        return HubProcess(request, token=hub.hub_token, seconds=CHECK_SECONDS).wait()


def repository_name(hub: HubOptions, output_dir: Path) -> str:
    """The repository that was asked for, or the name of the run's folder."""
    return hub.hub_model_id or output_dir.resolve().name


def refusal(name: str, failure: Failure) -> OutputError:
    """The error of a repository that cannot be used."""
    return OutputError(
        f"upload to {name}",
        expected="a repository on the Hub that can be written",
        found=failure.found,
        remedy=failure.remedy,
    )


def upload(hub: HubOptions, output_dir: Path) -> Failure | None:
    """Uploads a finished run's folder, and says what came of it; returns why not, if it failed.

    It takes a time that is said first, and no longer.
    """
    name = repository_name(hub, output_dir)
    try:
        files = files_to_upload(hub, output_dir)
        staging = linked(output_dir, files)
    except OSError as error:
        remedy = (
            LINK_REMEDY if isinstance(error, LeavingLinkError) else "Check the folder of temporary files."
        )
        failure = Failure(error.strerror or str(error), remedy)
        warn(f"upload to {name}: found {failure.found}. {failure.remedy} Nothing is uploaded.")
        return failure
    size = megabytes(output_dir, files.values())
    seconds = UPLOAD_SECONDS + size
    what = f"{len(files)} files, {size:.1f} MB"
    say(f"uploading to {name}: {what}, at most {seconds:.0f} s")
    request = upload_request(hub, output_dir, "Learn a concept by Textual Inversion")
    request |= {"pauses": PAUSES, "replaced": [*REPLACED, *request["replaced"]]}
    process = HubProcess(request, token=hub.hub_token, seconds=seconds, staging=staging)
    try:
        with stage("uploading"):
            answer = process.wait()
    except KeyboardInterrupt:
        process.stop()
        warn(f"not uploaded: {what}; `{command(hub, output_dir)}` does it later")
        raise
    if answer.failure is None:
        say(f"uploaded to {answer.url}" if answer.changed else f"nothing new for {answer.url}")
        return None
    warn(
        f"upload to {name}: found {answer.failure.found}. {answer.failure.remedy} "
        f"Not uploaded: {what}, all in {output_dir}; `{command(hub, output_dir)}` does it later."
    )
    return answer.failure


def files_to_upload(hub: HubOptions, output_dir: Path) -> dict[str, str]:
    """What is uploaded of a finished run's folder: names in the repository to names in the folder.

    Raises:
      LeavingLinkError: a link leads out of the folder.
    """
    names = result_files(output_dir)
    names += pipeline_files(output_dir) if hub.hub_whole_pipeline else []
    names += checkpoint_files(output_dir) if hub.hub_strategy == "all_checkpoints" else []
    files = dict(zip(names, names))
    if hub.hub_strategy == "checkpoint" and (steps := checkpoint_steps(output_dir)):
        last = f"checkpoint-{steps[-1]}/"
        files |= {
            f"{LAST_ON_HUB}/{name.removeprefix(last)}": name
            for name in checkpoint_files(output_dir)
            if name.startswith(last)
        }
    return files


def linked(folder: Path, files: Mapping[str, str]) -> Path:
    """Makes a folder of links to files of another one, by the names that they get in the repository."""
    staging = Path(tempfile.mkdtemp(prefix="ti_flax-upload-"))
    for name, path in files.items():
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        (staging / name).symlink_to(folder.resolve() / path)
    return staging


def upload_request(hub: HubOptions, output_dir: Path, message: str) -> dict[str, Any]:
    """What `ti_flax.export.hub` needs to know of an upload from a run's folder."""
    return {
        "action": "upload",
        "repo_id": repository_name(hub, output_dir),
        "private": hub.hub_private_repo,
        "root": str(output_dir.resolve()),
        "replaced": [f"{LAST_ON_HUB}/.+"] if hub.hub_strategy == "checkpoint" else [],
        "message": message,
    }


def command(hub: HubOptions, output_dir: Path) -> str:
    """The command that uploads a run's folder; the token is left to the login."""
    words = [*started_alike("push", "push_to_hub"), str(output_dir)]
    words += ["--hub_model_id", hub.hub_model_id] if hub.hub_model_id else []
    words += ["--hub_private_repo"] if hub.hub_private_repo else []
    words += ["--hub_whole_pipeline"] if hub.hub_whole_pipeline else []
    with_checkpoints = hub.hub_strategy in ("checkpoint", "all_checkpoints")
    words += ["--hub_strategy", hub.hub_strategy] if with_checkpoints else []
    return shlex.join(words)


class ShareCheckpoints(Hook):
    """An upload at every checkpoint, beside the training: at most one at a time, later ones are left out."""

    def __init__(self, hub: HubOptions, output_dir: Path, *, every: int, last_step: int, fill: Fill):
        """Takes where to and from, the steps between two uploads and of the run, and what fills a folder."""
        self.every = every
        self._hub, self._output_dir, self._last_step, self._fill = hub, output_dir, last_step, fill
        self._running: HubProcess | None = None
        self._step, self._said = 0, ""

    def on_metrics(self, chunk: Chunk) -> None:
        answer = self._running.answer() if self._running is not None else None
        if answer is not None:
            self._running = None
            self._tell(answer)

    def on_step(self, step: int, state: TrainState) -> None:
        if step == self._last_step:
            self.close(finished=True)
        elif self._running is None and step % (self.every or 1) == 0:
            self._send(step, state)

    def close(self, finished: bool) -> None:
        """Ends what is under way; of a finished run, all of it is part of the upload that follows."""
        if self._running is not None:
            self._running.stop()
        self._running = None

    def _send(self, step: int, state: TrainState) -> None:
        """Starts the upload of a copy, which later steps do not change."""
        self._step, staging = step, Path()
        checkpoint = self._output_dir / f"checkpoint-{step}"
        names = {"checkpoint": LAST_ON_HUB, "all_checkpoints": checkpoint.name}
        try:
            staging = Path(tempfile.mkdtemp(prefix="ti_flax-upload-"))
            self._fill(staging, step, state)
            if self._hub.hub_strategy in names:
                copy_folder(checkpoint, staging / names[self._hub.hub_strategy], root=self._output_dir)
        except (OSError, OutputError) as error:
            if staging.is_absolute():
                shutil.rmtree(staging, ignore_errors=True)
            self._tell(Answer(Failure(f"no copy to upload ({error})", "")))
            return
        request = upload_request(self._hub, self._output_dir, f"Step {step}")
        seconds = UPLOAD_SECONDS + megabytes(staging, files_of(staging))
        self._running = HubProcess(request, token=self._hub.hub_token, seconds=seconds, staging=staging)

    def _tell(self, answer: Answer) -> None:
        """Says a failure once, until it is another one."""
        found = answer.failure.found if answer.failure is not None else ""
        if found and found != self._said:
            warn(f"upload of step {self._step}: found {found}; the run goes on")
        self._said = found
