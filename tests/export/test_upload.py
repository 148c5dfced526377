"""Runs on a Hub of this machine: what arrives there, and that nothing that goes wrong there loses a run."""

import json
import socket
import time
import traceback
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from hub_run import ROWS, TOKEN, options
from PIL import Image
from tiny_run import configure_scheduled

from ti_flax.commands import push as push_to_hub
from ti_flax.embedding.learned_embeds import load_learned_embeds, save_learned_embeds
from ti_flax.errors import ConfigError, OutputError
from ti_flax.export import hub_process
from ti_flax.export import upload as sharing
from ti_flax.files.written_files import only_run, record
from ti_flax.run import train as run
from ti_flax.training.checkpoint import load_checkpoint
from ti_flax.training.loop import Hook


def configure(place, output, **changes):
    return configure_scheduled(place, output, **({"eval_steps": 0} | changes))


@pytest.fixture
def finished(tmp_path):
    """The folder of a finished run, with things in it that are nobody's business."""
    folder = tmp_path / "finished"
    for name in ("concept_images", "unet", "checkpoint-2", "logs"):
        (folder / name).mkdir(parents=True)
        (folder / name / "0.jpeg").write_bytes(b"a picture")
    for name in ("metrics.csv", "notes.txt", "run.yaml", "contact_sheet.png", "model_index.json"):
        (folder / name).write_text(name)
    (folder / "README.md").write_text("---\nlibrary_name: diffusers\n---\n")
    save_learned_embeds(folder / "learned_embeds.safetensors", "<thing>", ROWS)
    return folder


def downloaded(hub, monkeypatch, place, repo_id="me/thing"):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    found = huggingface_hub.snapshot_download(repo_id, endpoint=hub.url, token="hf_good", local_dir=place)
    return Path(found)


def warnings_of(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]


def card_of(folder):
    _, front, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


def test_a_run_arrives_whole_and_can_be_read_again(place, hub, tmp_path, monkeypatch, capsys):
    changes = {"validation_prompt": ["a <thing>", "a: <thing>"], "num_validation_images": 2}
    changes |= {"validation_steps": 6, "push_to_hub": True, "hub_model_id": "thing", "hub_token": TOKEN}
    changes |= {"hub_license": "cc-by-4.0", "only_save_embeds": False}
    output = tmp_path / "out"
    run.train(configure(place, output, **changes))
    said = capsys.readouterr().err
    page = f"{hub.url}/me/thing"
    shown = f"the result goes to {page} (public), with small copies of training pictures\n"
    assert shown in said and f"uploaded to {page}\n" in said and "at most 300 s" in said

    sent = dict(hub.seen)
    copy = downloaded(hub, monkeypatch, tmp_path / "copy")
    names = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    assert {name for name in names if not name.startswith(".cache")} == {
        *("README.md", "learned_embeds.bin", "learned_embeds.safetensors", "token_identifier.txt"),
        *("type_of_concept.txt", "metrics.csv", "contact_sheet.png", "report.html"),
        *("validation/step-0.png", "validation/step-6.png"),
        *(f"concept_images/{index}.jpeg" for index in range(3)),
        *(f"example_images/{index}.jpeg" for index in range(2)),
    }
    token, rows = load_learned_embeds(copy / "learned_embeds.safetensors")
    assert token == (copy / "token_identifier.txt").read_text() == "<thing>"
    assert rows.tobytes() == load_learned_embeds(output / "learned_embeds.safetensors")[1].tobytes()
    with Image.open(copy / "concept_images" / "0.jpeg") as picture:
        assert (picture.size, len(picture.getexif())) == ((32, 32), 0)

    front, body = card_of(copy)
    assert front["instance_prompt"] == "<thing>" and front["license"] == "cc-by-4.0"
    assert "textual_inversion" in front["tags"] and "base_model" not in front  # a folder means nothing there
    assert [each["text"] for each in front["widget"]] == ["a <thing>", "a: <thing>"]
    assert {each["output"]["url"] for each in front["widget"]} <= names
    assert 'load_textual_inversion("me/thing")' in body and str(place) not in body
    assert str(place) not in (copy / "report.html").read_text()
    assert all(f"]({name})" in body for name in names if name.startswith("concept_images/"))

    # The token is nowhere but in the requests.
    assert sent["create"] == sent["commit"] == f"Bearer {TOKEN}" and sent["put"] is None
    assert TOKEN not in said
    assert not [path for path in output.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]

    # Once more, with nothing new: no commit.
    commits = list(hub.repositories["me/thing"].commits)
    command = [str(output), "--hub_model_id", "me/thing", "--hub_token", TOKEN]
    push_to_hub.run(push_to_hub.parse_arguments(command))
    assert f"nothing new for {page}\n" in capsys.readouterr().err
    assert hub.repositories["me/thing"].commits == commits


def test_only_what_belongs_to_the_result_is_uploaded(hub, finished, capsys):
    (finished / "signals.csv").write_text("step")
    assert sharing.upload(options(), finished) is None
    files = hub.repositories["me/thing"].files
    expected = {"README.md", "learned_embeds.safetensors", "metrics.csv", "signals.csv", "contact_sheet.png"}
    assert set(files) == expected | {"concept_images/0.jpeg"}

    # Pictures that a new upload does not have are taken away, what others put there stays.
    others = {"other.txt", "concept_images/mine.jpeg", "validation/how-it-went.png"}
    files |= {"concept_images/9.jpeg": (b"old", True)} | dict.fromkeys(others, (b"mine", False))
    (finished / "concept_images" / "0.jpeg").rename(finished / "concept_images" / "1.jpeg")
    assert sharing.upload(options(), finished) is None
    assert set(files) == expected | {"concept_images/1.jpeg"} | others
    assert sharing.upload(options(hub_whole_pipeline=True, hub_strategy="all_checkpoints"), finished) is None
    assert {"model_index.json", "unet/0.jpeg", "checkpoint-2/0.jpeg"} <= set(files)
    assert sharing.upload(options(hub_strategy="checkpoint"), finished) is None
    assert "last-checkpoint/0.jpeg" in files


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


@pytest.mark.parametrize(
    "name",
    ["me/a/b", "a b", "me/", "/b", "a--b", "a..b", "-a", "b.git", "x" * 97, "https://huggingface.co/me/a"],
)
def test_names_that_no_repository_can_have(place, tmp_path, name):
    with pytest.raises(ConfigError, match="hub_model_id: expected owner/name or a name"):
        configure(place, tmp_path, push_to_hub=True, hub_model_id=name)
    with pytest.raises(ConfigError, match="'my model', the name of output_dir"):
        configure(place, tmp_path / "my model", push_to_hub=True)


def test_options_of_an_upload_that_contradict_each_other(place, tmp_path):
    with pytest.raises(ConfigError, match="hub_whole_pipeline and only_save_embeds exclude"):
        configure(place, tmp_path, push_to_hub=True, hub_whole_pipeline=True, hub_model_id="a")
    with pytest.raises(ConfigError, match="hub_license: expected a license in the Hub's spelling"):
        configure(place, tmp_path, push_to_hub=True, hub_license="My own", hub_model_id="a")
    with pytest.raises(ConfigError) as caught:
        name = f"https://me:{TOKEN}@huggingface.co/me/thing?x=hf_secret"
        configure(place, tmp_path, push_to_hub=True, hub_model_id=name, hub_token="a")
    assert TOKEN not in str(caught.value) and "hf_secret" not in str(caught.value)


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


def test_processes_other_than_the_first_leave_the_hub_alone(place, hub, tmp_path, monkeypatch):
    """The hooks and the end of a run are the first one's anyway."""

    def reading(config):
        raise InterruptedError("far enough")

    monkeypatch.setattr(run.hosts, "is_first", lambda: False)
    monkeypatch.setattr(run, "load_inputs", reading)
    changes = {"push_to_hub": True, "hub_model_id": "me/thing", "hub_token": TOKEN}
    with pytest.raises(InterruptedError):
        run.train(configure(place, tmp_path / "out", **changes))
    assert hub.seen == []


class UntilThere(Hook):
    """Waits at a step until something is true, so that a run as short as these has time for an upload."""

    def __init__(self, every, reached):
        self.every, self._reached = every, reached

    def on_step(self, step, state):
        until = time.monotonic() + 60
        while step == self.every and not self._reached() and time.monotonic() < until:
            time.sleep(0.05)


def test_a_checkpoint_on_the_hub_is_one_to_resume_from(place, hub, tmp_path, monkeypatch):
    make_hooks = run.make_hooks
    there = {}

    def arrived():
        files = hub.repositories["me/thing"].files
        there.update({name: data for name, (data, _) in files.items()})
        return len(hub.repositories["me/thing"].commits) > 1

    def with_wait(*arguments):
        made = make_hooks(*arguments)
        return [*made, UntilThere(2, arrived)]

    changes = {"push_to_hub": True, "hub_model_id": "me/thing", "hub_token": TOKEN}
    with monkeypatch.context() as patch:
        patch.setattr(run, "make_hooks", with_wait)
        config = configure(place, tmp_path / "out", hub_strategy="checkpoint", **changes)
        whole = run.train(config)
    assert hub.repositories["me/thing"].commits[1:] == ["Step 2", "Learn a concept by Textual Inversion"]
    assert b"2 of 6 steps" in there["README.md"] and "last-checkpoint/_CHECKPOINT_METADATA" in there

    copy = tmp_path / "copy" / "last-checkpoint"
    for name, data in there.items():
        if name.startswith("last-checkpoint/"):
            (copy.parent / name).parent.mkdir(parents=True, exist_ok=True)
            (copy.parent / name).write_bytes(data)
    assert load_checkpoint(copy).step == 2
    again = run.train(configure(place, tmp_path / "again", resume_from_checkpoint=str(copy)))
    assert (again / "learned_embeds.bin").read_bytes() == (whole / "learned_embeds.bin").read_bytes()
    final = load_checkpoint(downloaded(hub, monkeypatch, tmp_path / "final") / "last-checkpoint")
    assert final.step == 6
    assert not list(Path(sharing.tempfile.gettempdir()).glob("ti_flax-upload-*"))


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


def test_the_process_sees_no_token_where_others_look(monkeypatch, hub):
    started = []
    popen = hub_process.subprocess.Popen

    def watched(command, **given):
        started.append(json.dumps([command, given["env"]]))
        return popen(command, **given)

    monkeypatch.setattr(hub_process.subprocess, "Popen", watched)
    assert sharing.open_repository(options(), Path("thing")).repo_id == "me/thing"
    assert len(started) == 1 and TOKEN not in started[0]
