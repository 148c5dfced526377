"""Runs on a Hub of this machine: what arrives there, and what is asked of it before a run begins."""

import json
import time
from pathlib import Path

import pytest
import yaml
from hub_run import TOKEN, configure, downloaded, options
from PIL import Image

from ti_flax.commands import push as push_to_hub
from ti_flax.embedding.learned_embeds import load_learned_embeds
from ti_flax.errors import ConfigError
from ti_flax.export import hub_process
from ti_flax.export import upload as sharing
from ti_flax.run import train as run
from ti_flax.training.checkpoint import load_checkpoint
from ti_flax.training.loop import Hook


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
    shown = f"the result goes to {page} (public), with small copies of training images\n"
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
    with Image.open(copy / "concept_images" / "0.jpeg") as image:
        assert (image.size, len(image.getexif())) == ((32, 32), 0)

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


def test_processes_other_than_the_first_leave_the_hub_alone(place, hub, tmp_path, monkeypatch):
    """The hooks and the end of a run are the first one's anyway."""

    def reading(config):
        raise InterruptedError("far enough")

    monkeypatch.setattr(run.hosts, "is_first", lambda: False)
    monkeypatch.setattr(run, "read_inputs", reading)
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
    there = {}

    def arrived():
        files = hub.repositories["me/thing"].files
        there.update({name: data for name, (data, _) in files.items()})
        return len(hub.repositories["me/thing"].commits) > 1

    staging = tmp_path / "staging"
    staging.mkdir()
    monkeypatch.setattr(sharing.tempfile, "tempdir", str(staging))
    changes = {"push_to_hub": True, "hub_model_id": "me/thing", "hub_token": TOKEN}
    config = configure(place, tmp_path / "out", hub_strategy="checkpoint", **changes)
    whole = run.train(config, hooks=[UntilThere(2, arrived)])
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
    assert not list(staging.iterdir())


def test_the_process_sees_no_token_where_others_look(monkeypatch, hub):
    started = []
    popen = hub_process.subprocess.Popen

    def watched(command, **given):
        started.append(json.dumps([command, given["env"]]))
        return popen(command, **given)

    monkeypatch.setattr(hub_process.subprocess, "Popen", watched)
    assert sharing.open_repository(options(), Path("thing")).repo_id == "me/thing"
    assert len(started) == 1 and TOKEN not in started[0]
