"""What the page shows of a run: read from its folder, with whatever is damaged left out."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_pages import evaluation, facts, run_folder

from ti_flax.embedding.learned_embeds import save_learned_embeds
from ti_flax.embedding.read import load_embedding
from ti_flax.errors import ConfigError, DataError
from ti_flax.files.written_files import CONCEPTS, only_run
from ti_flax.monitoring.report.document import escape
from ti_flax.monitoring.row_statistics import write_evaluations
from ti_flax.monitoring.sample_request import FILE, SampleRequest, read_request
from ti_flax.web.live import enlarged, live
from ti_flax.web.runs.processes import Program
from ti_flax.web.runs.results import READERS, files_for, generate_arguments, sample, samples_of
from ti_flax.web.runs.view import look_at, queue, verdict_markup

HTML = "<script>alert(1)</script>"


@pytest.fixture
def folder(work):
    """A finished run of 200 steps, the best of which was 100."""
    folder = work.runs / "toy"
    (folder / "output").mkdir(parents=True)
    run_folder(folder / "output")
    facts(finished=True).write(folder / "output")
    write_evaluations(
        folder / "output" / "signals.csv",
        [evaluation(0, 0.5), evaluation(100, 0.3), evaluation(200, 0.4)],
    )
    for name in ("learned_embeds", "learned_embeds-best", "learned_embeds-steps-50"):
        save_learned_embeds(folder / "output" / f"{name}.safetensors", "<toy>", np.ones((2, 768), np.float32))
    return folder


def at_work(monkeypatch, *names):
    monkeypatch.setattr(Program, "is_at_work", property(lambda self: self.log.stem in names))


def test_a_finished_run_says_which_step_to_use_and_has_all_of_them(folder):
    seen = look_at(folder)
    assert seen.state == "The run is finished." and seen.finished and not seen.at_work
    assert [*seen.vectors.items()] == [
        ("step 100 (advised)", "learned_embeds-best.safetensors"),
        ("step 200, the last", "learned_embeds.safetensors"),
        ("step 50", "learned_embeds-steps-50.safetensors"),
    ]
    assert "Use step 100" in verdict_markup(seen) and "<svg" in seen.charts and not seen.can_go_on


def test_a_run_without_a_folder_is_starting_and_one_that_failed_says_why(work, monkeypatch):
    folder = work.new_run("<a>")
    (folder / "run.log").write_text(f"note: x\nerror: placeholder_token: {HTML}\n")
    seen = look_at(folder)
    assert seen.error == f"placeholder_token: {HTML}" and "<script" not in verdict_markup(seen)
    at_work(monkeypatch, "run")
    assert look_at(folder).state.startswith("The run is starting")


def test_a_stopped_run_can_go_on(folder):
    facts().write(folder / "output")
    (folder / "run.json").write_text(json.dumps({"arguments": ["train"], "process": 1}))
    seen = look_at(folder)
    assert seen.can_go_on and not seen.finished
    assert queue([folder]) == [["toy", "<toy>", "stopped", "200"]]


def test_what_is_damaged_or_a_link_is_left_out(folder, tmp_path):
    output = folder / "output"
    for name in ("run.json", "metrics.csv", "signals.csv", CONCEPTS):
        (output / name).write_bytes(b"\xff{")
    (tmp_path / "secret.png").touch()
    (output / "validation" / "step-999.png").symlink_to(tmp_path / "secret.png")
    (output / "learned_embeds-steps-70.safetensors").symlink_to(tmp_path / "secret.png")
    seen = look_at(folder)
    assert seen.facts is None and seen.charts == "" and seen.said is None
    assert 999 not in seen.previews and "step 70" not in seen.vectors


def test_concepts_of_a_run_of_many_are_listed(work):
    folder = work.new_run("many")
    (folder / "output").mkdir()
    entries = [
        {"name": "one", "token": HTML, "state": "done", "step": 6, "steps": 6, "error": ""},
        {"name": "two", "token": "<two>", "state": "failed", "step": 0, "steps": 6, "error": "x"},
    ]
    (folder / "output" / CONCEPTS).write_text(json.dumps({"concepts": entries}))
    assert queue([folder]) == [["many/one", HTML, "done", "6"], ["many/two", "<two>", "failed", "0"]]
    assert look_at(folder).state == "2 of 2 concepts are done; it has ended. one is done."
    assert look_at(folder, "two").state == "2 of 2 concepts are done; it has ended. two failed: x"


@pytest.fixture
def many(work):
    """A run of many, of which one concept is done and two are being learned."""
    folder = work.new_run("many")
    entries = [
        {"name": name, "token": f"<{name}>", "state": state, "step": 5, "steps": 9, "error": ""}
        for name, state in (("one", "done"), ("two", "running"), ("three", "running"), ("four", "waiting"))
    ]
    for place in ("one", "two"):
        (folder / "output" / place).mkdir(parents=True)
        run_folder(folder / "output" / place)
    (folder / "output" / CONCEPTS).write_text(json.dumps({"concepts": entries}))
    facts(finished=True).write(folder / "output" / "one")
    rows = np.ones((2, 768), np.float32)
    save_learned_embeds(folder / "output" / "one" / "learned_embeds.safetensors", "<toy>", rows)
    return folder


def test_a_concept_of_many_is_looked_at_as_a_run_is(many, work, monkeypatch):
    at_work(monkeypatch, "run")
    changes, _, _ = live(work, "many", {}, 1, None, "one")
    assert changes["concept"]["value"] == "one" and "<svg" in changes["charts"]
    assert changes["concept"]["choices"][1] == ("two: learning", "two")
    assert "one is done." in changes["status"] and "<progress" not in changes["status"]
    assert [*look_at(many, "one").vectors.values()] == ["learned_embeds.safetensors"]
    assert {path.parent.parent.name for path in look_at(many, "two").previews.values()} == {"two"}
    assert [*look_at(many, "two").vectors.values()] == []
    for name in (None, "../x", "none"):
        assert look_at(many, name).concept == "two"  # the first that is being learned
    assert look_at(many, "four").state == "1 of 4 concepts are done; the others follow. four waits."
    [made] = files_for(look_at(many, "one"), "learned_embeds.safetensors", "diffusers", work.temporary)
    assert made.stem == "toy"


def test_only_what_changes_of_a_concept_is_looked_at(many, work):
    seen = {}
    for _ in range(2):
        seen = live(work, "many", seen, 1, None, "two")[1]
    assert live(work, "many", seen, 1, None, "two")[1] is seen
    (many / "output" / "two" / "signals.csv").write_text("x")
    after = live(work, "many", seen, 1, None, "two")[1]
    assert after is not seen


def test_a_concept_draws_in_its_own_folder(many, monkeypatch):
    started = []
    monkeypatch.setattr(Program, "start", lambda self, *given: started.append(given))
    at_work(monkeypatch, "run")
    with only_run(many / "output" / "two"):
        sample(look_at(many, "two"), "a {}", 2, "")
    assert read_request(many / "output" / "two") == SampleRequest(("a {}",), 2) and not started
    sample(look_at(many, "one"), "a {}", 2, "learned_embeds.safetensors")
    assert f"--output={many}/samples/one/1.png" in started[0][0]
    Image.new("RGB", (8, 8)).save(many / "samples" / "one" / "1.png")
    assert [path.name for path, _ in samples_of(look_at(many, "one"))] == ["1.png"]
    assert samples_of(look_at(many, "four")) == []


def test_a_folder_of_a_concept_that_is_a_link_is_not_looked_at(many, tmp_path):
    (many / "output" / "three").symlink_to(tmp_path)
    assert look_at(many, "three").concept == "two"


def test_the_advised_vectors_are_offered_until_somebody_chooses_others(folder, work):
    changes, seen, _ = live(work, "toy", {}, 1, None)
    assert changes["vectors"]["value"] == "learned_embeds-best.safetensors" and "reader" not in changes
    (folder / "output" / "learned_embeds-best.safetensors").unlink()
    changes, _, _ = live(work, "toy", seen, 1, "learned_embeds-best.safetensors")
    assert changes["vectors"]["value"] == "learned_embeds.safetensors" and changes["reader"] is None
    changes, _, _ = live(work, "toy", seen, 1, "learned_embeds-steps-50.safetensors")
    assert changes["vectors"]["value"] == "learned_embeds-steps-50.safetensors" and "reader" not in changes


def test_a_run_at_work_is_asked_and_draws_itself(folder, monkeypatch):
    at_work(monkeypatch, "run")
    started = []
    monkeypatch.setattr(Program, "start", lambda *given: started.append(given))
    with pytest.raises(DataError, match="found one that is starting"):
        sample(look_at(folder), "a {}", 2, "")
    assert not (folder / "output" / FILE).exists()
    with only_run(folder / "output"):
        assert sample(look_at(folder), " a {} ", 2, "").startswith("The run is asked")
    assert read_request(folder / "output") == SampleRequest(("a {}",), 2) and not started
    with pytest.raises(ConfigError, match="images 99"):
        sample(look_at(folder), "a", 99, "")


def test_where_no_run_is_at_work_generate_draws_with_the_vectors_that_are_chosen(folder, work, monkeypatch):
    started = []
    monkeypatch.setattr(Program, "start", lambda self, *given: started.append((self.log.name, *given)))
    (folder / "samples").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "samples" / "4.png")
    sample(look_at(folder), "a {}", 2, "learned_embeds-best.safetensors")
    (log, arguments, where), output = started[0], folder / "output"
    assert log == "sample.log" and where == work.root and arguments[0] == "generate"
    assert f"--learned_embeds={output}/learned_embeds-best.safetensors" in arguments
    assert "--prompt=a <toy>" in arguments and f"--output={folder}/samples/5.png" in arguments
    for vectors in ("", "../../x", "run.json"):
        with pytest.raises(DataError, match="expected a run that has written vectors"):
            sample(look_at(folder), "a", 2, vectors)
    with pytest.raises(ConfigError, match="prompt: expected what to draw"):
        sample(look_at(folder), " ", 2, "")


def test_generate_is_told_what_the_run_was(folder):
    from ti_flax.commands.generate import parse_arguments

    config = {"pretrained_model_name_or_path": "a/b", "revision": "v1", "clip_skip": 2, "resolution": 64}
    config |= {"mixed_precision": "fp16", "rescale_betas_zero_snr": True, "variant": None}
    told = generate_arguments(facts(config=config), folder / "x", "a -x", 3, folder / "y.png")
    options = vars(parse_arguments(told[1:]))
    assert options["clip_skip"] == 2 and options["revision"] == "v1" and options["resolution"] == 64
    assert options["mixed_precision"] == "bf16" and options["rescale_betas_zero_snr"] is True
    assert options["pretrained_model_name_or_path"] == "a/b" and options["num_images"] == 3


@pytest.mark.parametrize("reader", READERS)
def test_the_word_is_written_for_each_program(folder, work, reader):
    [made] = files_for(look_at(folder), "learned_embeds.safetensors", reader, work.temporary)
    assert made.stem == "toy" and made.is_relative_to(work.temporary)
    np.testing.assert_array_equal(
        load_embedding(made, "<toy>").rows["text_encoder"], np.ones((2, 768), np.float32)
    )
    with pytest.raises(ConfigError, match="download: expected diffusers"):
        files_for(look_at(folder), "learned_embeds.safetensors", "../x", work.temporary)


def test_only_what_changes_is_sent_again(folder, work):
    changes, seen, error = live(work, "toy", {}, 1, None)
    assert error == "" and {"status", "charts", "log", "preview", "vectors", "queue"} <= changes.keys()
    again = live(work, "toy", seen, 1, None)
    assert again[0] == {} and again[1] is seen
    Image.new("RGB", (8, 8)).save(folder / "output" / "validation" / "step-300.png")
    assert {*live(work, "toy", seen, 3, None)[0]} == {"preview_step", "preview"}
    assert {*live(work, "none", seen, 1, None)[0]} == {"status"}


def opened_files(monkeypatch):
    """The names of all files that are opened from now on."""
    names = []

    def noting(really):
        def opened(path, *more, **options):
            if not isinstance(path, int):
                names.append(Path(os.fsdecode(path)).name)
            return really(path, *more, **options)

        return opened

    monkeypatch.setattr(os, "open", noting(os.open))
    monkeypatch.setattr(io, "open", noting(io.open))
    return names


def test_where_nothing_has_changed_nothing_is_read(folder, work, monkeypatch):
    (folder / "run.log").write_text("note: x\n")
    (folder / "samples").mkdir()
    seen = live(work, "toy", {}, 1, None)[1]
    opened = opened_files(monkeypatch)
    assert live(work, "toy", seen, 1, None)[0] == {}
    assert {*opened} <= {"run.log", "sample.log"} and len(opened) <= 3  # their locks
    live(work, "toy", {}, 1, None)
    assert {"run.json", "metrics.csv"} <= {*opened}  # which does see what is read


def written(name, text="x\n"):
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    "change",
    [
        *map(written, ("run.log", "output/run.json", "output/metrics.csv", "output/signals.csv")),
        *map(written, ("output/learned_embeds-steps-70.safetensors", "output/validation/asked-1.png")),
        *map(written, ("sample.log", "samples/1.png", "run.json", f"output/{CONCEPTS}")),
        lambda folder: os.utime(folder / "output" / "metrics.csv", (1, 1)),
        lambda folder: (folder / "output" / "validation" / "step-0.png").unlink(),
        lambda folder: (folder.parent / "other").mkdir(),
    ],
)
def test_whatever_changes_is_looked_at(folder, work, change):
    (folder.parent / "third" / "output").mkdir(parents=True)
    (folder / "samples").mkdir()
    seen = live(work, "toy", {}, 1, None)[1]
    assert live(work, "toy", seen, 1, None)[1] is seen
    change(folder)
    assert live(work, "toy", seen, 1, None)[1] is not seen


def test_other_runs_are_looked_at_and_a_program_that_ends(folder, work, monkeypatch):
    other = folder.parent / "other"
    (other / "output").mkdir(parents=True)
    seen = live(work, "toy", {}, 1, None)[1]
    for change in (
        lambda: (other / "output" / CONCEPTS).write_text("{}"),
        lambda: at_work(monkeypatch, "run"),
        lambda: at_work(monkeypatch),
    ):
        change()
        after = live(work, "toy", seen, 1, None)[1]
        assert after is not seen
        seen = after


def test_samples_say_what_they_show(folder):
    from ti_flax.generation.png_metadata import save_png

    texts = {"prompts": json.dumps([HTML]), "step": "40"}
    save_png(Image.new("RGB", (8, 8)), folder / "output" / "validation" / "asked-1.png", texts)
    (folder / "output" / "validation" / "asked-2.png").write_bytes(b"none")
    assert {caption for _, caption in samples_of(look_at(folder))} == {f"step 40: {HTML}", "asked-2"}


@pytest.mark.parametrize(
    ("size", "shown"),
    [((64, 32), (256, 128)), ((260, 64), (780, 192)), ((512, 512), (512, 512)), ((2048, 9), (2048, 9))],
)
def test_a_small_preview_is_shown_a_whole_number_of_times_as_large(size, shown):
    image = Image.effect_noise(size, 50)
    found = enlarged(image)
    times = shown[0] // size[0]
    assert found.size == shown
    assert np.array_equal(np.asarray(found), np.kron(np.asarray(image), np.ones((times, times), np.uint8)))


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ("a {} on a beach", "Drawn: <code>a &lt;toy&gt; on a beach</code>"),
        (["a {}", HTML], f"From top to bottom: <code>a &lt;toy&gt;</code>, <code>{escape(HTML)}</code>"),
        (None, ""),
    ],
)
def test_the_rows_of_a_preview_say_what_they_are_of(folder, work, prompts, said):
    options = {"validation_prompt": prompts, "num_validation_images": 2}
    facts(config=options, finished=True).write(folder / "output")
    changes, seen, _ = live(work, "toy", {}, 1, None)
    assert (said in changes["preview_rows"]) and bool(said) == bool(changes["preview_rows"])
    assert "preview_rows" not in live(work, "toy", dict(seen, stamp=None), 1, None)[0]
    for path in (folder / "output" / "validation").iterdir():
        path.unlink()
    assert live(work, "toy", dict(seen, stamp=None), 1, None)[0].get("preview_rows", "") == ""
