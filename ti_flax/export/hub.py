"""Talks to the Hugging Face Hub in a process of its own: `python -m ti_flax.export.hub`.

A run writes one request as JSON to its standard input and reads one answer, JSON too, from its standard
output. A process can be ended whatever it waits for, and what the Hub's client prints stays in it. The access
token comes with the request and never as an argument, which other programs could see.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ti_flax.errors import redacted
from ti_flax.files.folder_files import LINK_REMEDY, LeavingLinkError, require_inside

# The longest that one exchange with a server may be silent.
_REQUEST_SECONDS = 60.0

_LOGIN = "Log in with `hf auth login`, or set HF_TOKEN."
_ANOTHER_TOKEN = "Log in with a token that may write, or give a hub_model_id of your own."
_REFUSED = {
    401: ("an access token that the Hub does not accept (401)", _LOGIN),
    402: ("no room left on the account (402)", "Free space on the Hub, or use another account."),
    403: ("no right to write there (403)", _ANOTHER_TOKEN),
    404: ("no such user, organisation or repository (404)", "Check the part of hub_model_id before the /."),
    507: ("no room left on the Hub (507)", "Free space on the Hub, or use another account."),
    413: ("files too large for the Hub (413)", "Free space on the Hub, or upload less."),
}
_CUT = ("ReadError", "WriteError", "RemoteProtocolError", "NetworkError", "ChunkedEncodingError")


class RefusedError(Exception):
    """Something that is known to be wrong before the Hub says so: what was found, and what to do."""

    def __init__(self, found: str, remedy: str, *, temporary: bool = False):
        super().__init__(found)
        self.failure = {"found": found, "remedy": remedy, "temporary": temporary}


def main() -> None:
    """Reads a request, does what it asks for in the time it gives, and writes the answer."""
    request = json.load(sys.stdin)
    reply = os.fdopen(os.dup(1), "w")
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    watch = (os.getppid(), time.monotonic() + request["seconds"] + 5, request["folder"])
    threading.Thread(target=_end_with, args=watch, daemon=True).start()
    try:
        answer = _answer(request)
    finally:
        if request["folder"]:
            shutil.rmtree(request["folder"], ignore_errors=True)
    json.dump(answer, reply)
    reply.flush()
    os._exit(0)  # past the threads of a transfer that failed, which may still wait for their server


def _end_with(parent: int, until: float, staging: str) -> None:
    """Ends this process soon after the run that started it, however that ended, and when its time is over."""
    while os.getppid() == parent and time.monotonic() < until:
        time.sleep(0.5)
    if staging:
        shutil.rmtree(staging, ignore_errors=True)
    os._exit(1)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """Tries until it works, is refused for good, or the pauses between the attempts are used up."""
    action = {"check": check, "upload": upload}[request["action"]]
    pauses = [*request.get("pauses", ())]
    while True:
        token = request["token"]
        try:
            token = token or _stored_token()
            return action(request, _client(token))
        except Exception as error:  # the Hub's client and its transport share no base class
            failure = failure_of(error, token)
        if not (failure["temporary"] and pauses):
            return {"failure": failure}
        time.sleep(pauses.pop(0))


def _stored_token() -> str:
    import huggingface_hub
    from huggingface_hub import constants, errors

    if constants.HF_HUB_OFFLINE:
        raise errors.OfflineModeIsEnabled("offline mode is set")
    token = huggingface_hub.get_token()
    if not token:
        raise RefusedError("no access token", _LOGIN)
    return token


def _client(token: str) -> Any:
    import huggingface_hub
    from huggingface_hub import HfApi

    # The client waits without end unless told otherwise; its own settings are kept.
    now = huggingface_hub.get_session()
    hooks, kind = now.event_hooks, type(now)
    huggingface_hub.set_client_factory(
        lambda: kind(event_hooks=hooks, follow_redirects=True, timeout=_REQUEST_SECONDS)
    )
    return HfApi(token=token)


def check(request: dict[str, Any], api: Any) -> dict[str, Any]:
    """Makes the repository if there is none, and finds out whether it can be written.

    Returns:
      `repo_id` with its owner, `url`, and whether it is `private`.
    """
    from huggingface_hub.errors import HfHubHTTPError

    made = api.create_repo(request["repo_id"], private=request["private"] or None, exist_ok=True)
    found = api.repo_info(made.repo_id)
    _refuse_public(request, made.repo_id, private=found.private)
    try:
        api.auth_check(made.repo_id, write=True)
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):  # a server without this question is no reason to refuse
            raise
    return {"repo_id": made.repo_id, "url": redacted(str(made)), "private": bool(found.private)}


def upload(request: dict[str, Any], api: Any) -> dict[str, Any]:
    """Uploads a folder, and takes away what it replaces.

    Args:
      request: `folder`, of files and of links to files in `root`; `replaced`, regular expressions of names
        that an earlier upload gave and that go where this one has none; the commit's `message`.
      api: the Hub's client.

    Returns:
      `repo_id`, `url`, and whether anything was `changed`.
    """
    made = api.create_repo(request["repo_id"], private=request["private"] or None, exist_ok=True)
    found = api.repo_info(made.repo_id)
    _refuse_public(request, made.repo_id, private=found.private)
    folder = Path(request["folder"])
    for path in folder.rglob("*"):
        _refuse_leaving(path, Path(request["root"]))
    there = [each.rfilename for each in found.siblings or () if not (folder / each.rfilename).is_file()]
    gone = [name for name in there if any(re.fullmatch(each, name) for each in request["replaced"])]
    commit = api.upload_folder(
        repo_id=made.repo_id,
        folder_path=folder,
        commit_message=request["message"],
        delete_patterns=[glob.escape(name) for name in gone] or None,
    )
    return {"repo_id": made.repo_id, "url": redacted(str(made)), "changed": commit.oid != found.sha}


def _refuse_leaving(path: Path, root: Path) -> None:
    """Refuses a link out of the run's folder once more: another program may have made it since."""
    try:
        if path.is_symlink():
            require_inside(path, root, kind="run's folder")
    except LeavingLinkError as error:
        raise RefusedError(error.strerror or "", LINK_REMEDY) from None


def _refuse_public(request: dict[str, Any], repo_id: str, *, private: bool | None) -> None:
    if request["private"] and private is False:
        raise RefusedError(
            f"that {repo_id} is public already",
            "Make it private on its settings page, leave hub_private_repo out, or give another hub_model_id.",
        )


def failure_of(error: Exception, token: str | None) -> dict[str, Any]:
    """What an error means, without secrets: `found`, `remedy`, and whether it is `temporary`."""
    if isinstance(error, RefusedError):
        return error.failure
    while isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the client names the file, its cause says what happened
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return _refusal(status, _line(getattr(error, "server_message", None) or "", token))
    if "OfflineModeIsEnabled" in kinds:
        return _failure("offline mode (HF_HUB_OFFLINE)", "Unset HF_HUB_OFFLINE.", temporary=True)
    line = _line(str(error), token)
    if "TimeoutException" in kinds or "TimeoutError" in kinds:
        return _failure("a server that does not answer", "Check the network.", temporary=True)
    if "ConnectError" in kinds:
        return _failure(f"no connection ({line})", "Check the network.", temporary=True)
    if kinds & set(_CUT):
        return _failure(f"a connection that was cut ({line})", "Check the network.", temporary=True)
    if isinstance(error, OSError) and error.filename is not None:
        return _failure(f"{error.strerror}: {error.filename}", "Check the folder.")
    return _failure(line or type(error).__name__, "Try again later.", temporary=True)


def _refusal(status: int, said: str) -> dict[str, Any]:
    """What an answer other than success means."""
    if status == 429 or status >= 500 and status != 507:
        words = f"a Hub in trouble ({status})" if status != 429 else "too many requests (429)"
        return _failure(f"{words}: {said}" if said else words, "Wait a little.", temporary=True)
    found, remedy = _REFUSED.get(status, (f"a refusal ({status})", "Put this right on the Hub."))
    return _failure(f"{found}: {said}" if said else found, remedy)


def _failure(found: str, remedy: str, *, temporary: bool = False) -> dict[str, Any]:
    return {"found": found, "remedy": remedy, "temporary": temporary}


def _line(text: str, token: str | None) -> str:
    """The text as one line without secrets, cut where it gets long."""
    line = redacted(" ".join(text.split()), token)
    return (line if len(line) <= 240 else f"{line[:240]}...").rstrip(".")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
