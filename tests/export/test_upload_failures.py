"""What goes wrong on a Hub of this machine: it loses no run, and says what to do in one line."""

import errno
import socket
import time
import traceback

import pytest
from hub_run import ROWS, TOKEN, configure, options, warnings_of

from ti_flax.commands import push as push_to_hub
from ti_flax.embedding.learned_embeds import load_learned_embeds, save_learned_embeds
from ti_flax.errors import ConfigError, OutputError
from ti_flax.export import hub_process
from ti_flax.export import upload as sharing
from ti_flax.files.written_files import only_run, record
from ti_flax.run import train as run

FAILURES = [
    ({"create": 401}, "an access token that the Hub does not accept (401): told to answer 401. Log in with"),
    ({"create": 403}, "no right to write there (403)"),
    ({"create": 404}, "no such user, organisation or repository (404)"),
    ({"create": 500}, "a Hub in trouble (500)"),
    ({"create": "reset"}, "a connection that was cut"),
    ({"commit": 503}, "a Hub in trouble (503): told to answer 503"),
    ({"commit": "reset"}, "a connection that was cut"),
    ({"commit": (403, "Storage limit reached")}, "no right to write there (403): Storage limit reached"),
    ({"quota": True}, "You have exceeded your storage limit"),
    ({"put": 507}, "no room left on the Hub (507)"),
    ({"commit": "hang"}, "no answer within 3 s"),
]


@pytest.mark.parametrize("fail, found", FAILURES, ids=lambda value: str(value)[:24])
def test_a_failed_upload_is_one_line_with_the_command_for_later(
    hub, finished, monkeypatch, capsys, fail, found
):
    hub.fail |= fail
    hangs = "hang" in fail.values()
    monkeypatch.setattr(sharing, "UPLOAD_SECONDS", 3.0 if hangs else 60.0)
    began = time.monotonic()
    assert sharing.upload(options(hub_private_repo=True), finished) is not None
    assert time.monotonic() - began < (8 if hangs else 60)
    (line,) = warnings_of(capsys)
    assert line.startswith("warning: upload to me/thing: found ") and found in line
    assert f"Not uploaded: 5 files, 0.0 MB, all in {finished}; " in line
    command = f"`python scripts/push_to_hub.py {finished} --hub_model_id me/thing --hub_private_repo`"
    assert command in line and TOKEN not in line


def test_an_upload_that_fails_once_is_tried_again(hub, finished, monkeypatch, capsys):
    monkeypatch.setattr(sharing, "PAUSES", (0.01,))
    hub.fail["commit"] = [503]
    assert sharing.upload(options(), finished) is None
    hub.fail["put"] = ["reset"]  # here the Hub's client itself tries again
    save_learned_embeds(finished / "learned_embeds.safetensors", "<thing>", ROWS + 1)
    assert sharing.upload(options(), finished) is None
    assert len(hub.repositories["me/thing"].commits) == 3


def test_nothing_listens(finished, monkeypatch, capsys):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{probe.getsockname()[1]}")
    assert sharing.upload(options(), finished) is not None
    assert "found no connection ([Errno 111] Connection refused)" in capsys.readouterr().err


def test_a_full_disk_for_temporary_files_loses_no_run(hub, finished, monkeypatch, capsys):
    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sharing.tempfile, "mkdtemp", full)
    failure = sharing.upload(options(), finished)
    assert failure is not None and failure.found == "No space left on device" and hub.seen == []
    assert len(warnings_of(capsys)) == 1


def refused(config):
    with pytest.raises(OutputError) as caught:
        run.with_repository(config)
    return str(caught.value)


def test_what_the_hub_would_refuse_is_refused_at_the_start(place, hub, tmp_path, monkeypatch):
    hub.add("other/thing")
    hub.add("me/public")

    def said(**changes):
        values = {"push_to_hub": True, "hub_model_id": "me/thing", "hub_token": TOKEN}
        return refused(configure(place, tmp_path / "out", **(values | changes)))

    assert said(hub_token=None).endswith(
        "found no access token. Log in with `hf auth login`, or set HF_TOKEN."
    )
    assert "(401): Invalid credentials" in said(hub_token="hf_other")
    assert "no right to write there (403): You don't have the rights" in said(hub_token="hf_read")
    assert "no right to write there (403)" in said(hub_model_id="other/thing")
    assert "no such user, organisation or repository (404)" in said(hub_model_id="nobody/thing")
    assert "that me/public is public already" in said(hub_model_id="me/public", hub_private_repo=True)

    # A login that the Hub's client finds by itself is as good as the option.
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    config = configure(place, tmp_path / "out", push_to_hub=True, hub_model_id="made", hub_private_repo=True)
    assert run.with_repository(config).hub.hub_model_id == "me/made"
    assert hub.repositories["me/made"].private
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "hf").mkdir(exist_ok=True)
    (tmp_path / "hf" / "token").write_text("hf_good")
    assert run.with_repository(config).hub.hub_model_id == "me/made"


@pytest.mark.parametrize("wrong", [503, "reset", "hang", "offline", "offline without a token"])
def test_a_hub_that_cannot_be_reached_at_the_start_is_said(
    place,
    hub,
    tmp_path,
    monkeypatch,
    capsys,
    wrong,
):
    hub.fail["create"] = wrong
    monkeypatch.setattr(sharing, "CHECK_SECONDS", 2.0 if wrong == "hang" else 30.0)
    offline = str(wrong).startswith("offline")
    if offline:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    token = None if wrong == "offline without a token" else TOKEN
    config = configure(place, tmp_path, push_to_hub=True, hub_model_id="me/thing", hub_token=token)
    assert run.with_repository(config) == config
    (line,) = warnings_of(capsys)
    assert line.startswith("warning: upload to me/thing: found ")
    assert ("found offline mode (HF_HUB_OFFLINE)" in line) == offline
    assert line.endswith("; the run goes on and tries again at its end")


def test_secrets_in_what_the_hub_says_are_not_repeated(hub, finished, capsys):
    words = f"bearer {TOKEN} at https://me:pass-word@host/x?signature=hush and hf_another1 refused"
    hub.fail["commit"] = (403, words)
    sharing.upload(options(), finished)
    said = capsys.readouterr().err
    assert "refused" in said
    assert not any(secret in said for secret in (TOKEN, "pass-word", "hush", "hf_another1"))


def test_ctrl_c_ends_the_upload_and_says_the_command(hub, finished, monkeypatch, capsys):
    hub.fail["create"] = "hang"
    made = []

    def interrupted(process):
        made.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(hub_process.HubProcess, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sharing.upload(options(), finished)
    said = capsys.readouterr().err
    assert f"not uploaded: 5 files, 0.0 MB; `python scripts/push_to_hub.py {finished} --hub_model_id" in said
    assert made[0]._process.returncode is not None


def test_no_traceback_holds_the_token(place, hub, tmp_path, monkeypatch):
    def broken(process):
        raise RuntimeError("something nobody thought of")

    monkeypatch.setattr(hub_process, "_read", broken)
    config = configure(place, tmp_path, push_to_hub=True, hub_model_id="me/thing", hub_token=TOKEN)
    try:
        run.train(config)
    except RuntimeError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "something nobody thought of" in shown and TOKEN not in shown


def test_a_run_whose_upload_fails_ends_well_and_is_uploaded_later(place, hub, tmp_path, capsys):
    """Here without pictures of the training, so also without a sheet that shows them."""
    import train_flax

    hub.fail["commit"] = 503
    config = configure(place, tmp_path, push_to_hub=True, hub_strategy="every_save")
    flags = [
        f"--{name}={value}" for name, value in config.to_dict().items() if value not in (None, False, ())
    ]
    flags += [
        f"--hub_token={TOKEN}",
        "--hub_model_id=me/thing",
        "--hub_concept_images=false",
        "--eval_steps=0",
    ]
    assert train_flax.main(flags) == 0
    said = capsys.readouterr().err
    assert "warning: upload to me/thing: found a Hub in trouble (503)" in said and TOKEN not in said
    assert load_learned_embeds(tmp_path / "learned_embeds.safetensors")[1].shape == (2, 32)
    with only_run(tmp_path):
        record(tmp_path, "contact_sheet.png")
    (tmp_path / "contact_sheet.png").write_bytes(b"shows training pictures")
    hub.fail.clear()
    command = said.rpartition("`python scripts/push_to_hub.py ")[2].partition("`")[0].split()
    push_to_hub.run(push_to_hub.parse_arguments([*command, "--hub_token", TOKEN]))
    files = hub.repositories["me/thing"].files
    assert set(files) == {
        *("README.md", "learned_embeds.bin", "learned_embeds.safetensors", "metrics.csv"),
        *("token_identifier.txt", "type_of_concept.txt"),
    }
    assert b"contact" not in files["README.md"][0]


def test_a_hub_that_hangs_holds_up_no_step(hub, finished, capsys):
    hub.fail["create"] = "hang"
    made = []

    def fill(folder, step, state):
        (folder / "README.md").write_text(f"step {step}")
        made.append(folder)

    hook = sharing.ShareCheckpoints(
        options(hub_strategy="every_save"), finished, every=2, last_step=8, fill=fill
    )
    for step in (2, 4, 6):
        hook.on_step(step, state=None)
        hook.on_metrics(chunk=None)
    assert len(made) == 1  # one at a time, and none waits in a queue
    hook.on_step(8, state=None)
    assert not made[0].exists() and capsys.readouterr().err == ""


def test_a_failure_at_a_checkpoint_is_said_once(hub, finished, capsys):
    hub.fail["create"] = 503
    hook = sharing.ShareCheckpoints(
        options(hub_strategy="every_save"), finished, every=2, last_step=8, fill=lambda *_: None
    )
    for step in (2, 4):
        hook.on_step(step, state=None)
        hook._running.wait()
        hook.on_metrics(chunk=None)
    (line,) = warnings_of(capsys)
    assert line == (
        "warning: upload of step 2: found a Hub in trouble (503): told to answer 503; the run goes on"
    )


def test_the_command_refuses_what_is_no_run(hub, tmp_path, finished, capsys):
    with pytest.raises(
        OutputError, match="the folder of a finished run, found no learned_embeds.safetensors"
    ):
        push_to_hub.run(push_to_hub.parse_arguments([str(tmp_path)]))
    (finished / "model_index.json").unlink()
    with pytest.raises(OutputError, match="expected a whole pipeline"):
        push_to_hub.run(push_to_hub.parse_arguments([str(finished), "--hub_whole_pipeline"]))
    with pytest.raises(OutputError, match="upload to me/thing: .* found no access token"):
        push_to_hub.run(push_to_hub.parse_arguments([str(finished), "--hub_model_id", "me/thing"]))
    for wrong in (["--hub_tokn", TOKEN], [TOKEN], [f"--hub_tokn={TOKEN}"]):
        with pytest.raises(ConfigError, match="unknown argument --hub_tokn|an argument too many") as caught:
            push_to_hub.parse_arguments([str(finished), *wrong])
        assert TOKEN not in str(caught.value)
    hub.fail["commit"] = 503
    with pytest.raises(SystemExit) as caught:
        push_to_hub.run(push_to_hub.parse_arguments([str(finished), "--hub_token", TOKEN]))
    assert caught.value.code == 1
