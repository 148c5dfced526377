"""The page of a run: what it says of which files, that it needs nothing else, and that a browser shows it."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from report_pages import Balanced, evaluation, facts, pixels, run_folder
from shown_commands import commands_of, complaint

from ti_flax.errors import DataError
from ti_flax.monitoring.report.curves import drawn_vectors
from ti_flax.monitoring.report.facts import RunFacts
from ti_flax.monitoring.report.page import write_report
from ti_flax.monitoring.report.verdict import verdict
from ti_flax.monitoring.row_statistics import write_evaluations

HOSTILE = '<img src=x onerror="alert(1)">'


@pytest.fixture
def folder(tmp_path):
    return run_folder(tmp_path)


def written(folder, **changes):
    facts(**{"finished": True} | changes).write(folder)
    return write_report(folder).read_text(encoding="utf-8")


def test_what_the_page_says(folder):
    text = written(folder)
    plain = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text.partition("</style>")[2])))
    for words in (
        "<toy> A Textual Inversion concept (object) for somebody/model : 2 vectors of 64 numbers, learned "
        "from 5 images in 200 steps of 8 samples at learning rate 0.002, constant, starting from the word "
        '"cat".',
        "How it went Use step 100: it is the best of 2 evaluations.",
        "validation loss 0.2000 at step 0, 0.1500 at step 200; the best is 0.1250 at step 100: "
        "learned_embeds-best.safetensors holds those vectors.",
        "over-trained? No sign of it: the least prompt sensitivity was 1.20; below 0.5 the concept",
        "Step all steps before 20 60 100 best 120 140 180 200 Image all 1 2 3",
        "a <toy> & co",
        "best, step 100",
        "2 0.600 1.50 99% of words 0.900 cat 0.80 cat 0.80",
        'StableDiffusionPipeline.from_pretrained("somebody/model")',
        'pipe("a photo of a <toy>").images[0]',
        "write toy in prompts",
        "embedding:toy",
        "seed 3",
        "devices 8 x TPU v4 compiling 1:15",
        "jax 0.10.2",
    ):
        assert words in plain, words
    for title in (
        "Validation loss",
        "Length",
        "Likeness to the start",
        "Prompt sensitivity",
        "Training loss",
        "Learning rate",
    ):
        assert f"<figcaption>{title}</figcaption>" in text


def test_a_word_of_two_text_encoders(folder):
    vectors = ("1", "2", "1_text_encoder_2", "2_text_encoder_2")
    table = [evaluation(step, loss, vectors=vectors) for step, loss in ((0, 0.2), (100, 0.1))]
    write_evaluations(folder / "signals.csv", table)
    text = html.unescape(written(folder, token="<my cat>", width=768, second_width=1280))
    plain = re.sub(r"\s+", " ", re.sub(r"<(?!my cat>)[^>]+>", " ", text.partition("</style>")[2]))
    assert "2 vectors of 768 and 1280 numbers, learned from 5 images" in plain
    for name in ("vector 1", "vector 2", "vector 1, text_encoder_2", "vector 2, text_encoder_2"):
        assert text.count(f'">{name}</span>') == 2, name  # length, and likeness to the start
    cells = re.findall(r'<td data-name="vector">(.*?)</td><td data-name="length">(.*?)</td>', text)
    assert ("1, text_encoder_2", "0.600") in cells and ("2", "0.600") in cells
    many = [f"{number}{encoder}" for encoder in ("", "_text_encoder_2") for number in range(1, 9)]
    assert drawn_vectors(many) == ["1", "2", "3", "1_text_encoder_2", "2_text_encoder_2", "3_text_encoder_2"]
    assert drawn_vectors(many[:8]) == ["1", "2", "3", "4", "5", "6"]
    python = text.partition("<h3>diffusers</h3><pre>")[2].partition("</pre>")[0]
    assert python.splitlines() == [
        "from diffusers import StableDiffusionXLPipeline",
        "",
        'pipe = StableDiffusionXLPipeline.from_pretrained("somebody/model")',
        "pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id",
        'pipe.load_textual_inversion("learned_embeds.safetensors")',
        "pipe.load_textual_inversion(",
        '    "learned_embeds_2.safetensors", text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2',
        ")",
        'pipe("a photo of a <my cat>").images[0].save("picture.png")',
    ]
    assert "Copy my-cat.safetensors into the folder embeddings and write my-cat in prompts" in " ".join(
        plain.split()
    )
    assert "embedding:my-cat" in plain and "Copy learned_embeds.safetensors" not in plain


def test_facts_of_a_run_from_before_there_were_two_encoders_are_read(tmp_path):
    facts().write(tmp_path)
    content = json.loads((tmp_path / "run.json").read_text())
    assert content.pop("second_width") == 0
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert RunFacts.read(tmp_path) == facts()
    facts(second_width=1280).write(tmp_path)
    assert RunFacts.read(tmp_path).second_width == 1280


def test_the_page_needs_nothing_else_and_runs_nothing(folder):
    text = written(folder)
    page = Balanced(text)
    assert not {"script", "link", "form", "button"} & set(page.tags)
    assert page.images and all(link.startswith(("data:image/", "#")) for link in page.links)
    assert "default-src 'none'" in text and "secret place" not in text and "cats" in text
    assert not list(folder.glob(".unfinished*"))


def test_a_source_of_images_with_options_is_shown_without_its_place(tmp_path):
    source = {"path": "/home/me/secret place/cats", "repeats": 3, "prompt_template": ["a {}", "the {}"]}
    facts(config={"train_data_dir": ["/home/me/dogs", source]}).write(tmp_path)
    write_report(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "<dd>dogs\npath: cats, repeats: 3, prompt_template: a {} | the {}</dd>" in text
    assert "secret place" not in text


def test_nothing_that_is_shown_can_become_markup(folder):
    table = [evaluation(0, 0.2, words=HOSTILE), evaluation(5, 0.1, words=HOSTILE)]
    write_evaluations(folder / "signals.csv", table)
    text = written(
        folder,
        token=HOSTILE,
        base=HOSTILE,
        start=HOSTILE,
        rate=HOSTILE,
        devices=HOSTILE,
        config={
            HOSTILE: HOSTILE,
            "validation_prompt": [HOSTILE, f"{{}} {HOSTILE}"],
            "num_validation_images": 3,
        },
        versions={HOSTILE: HOSTILE},
        times={HOSTILE: 1.0},
    )
    page = Balanced(text)
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert (
        "onerror" in text
        and text.count(html.escape(HOSTILE)) > 60
        and '<img src="x"' not in text
        and "<img src=x" not in text
    )


def test_what_is_not_there_is_left_out(tmp_path):
    text = written(tmp_path)
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles == ["Use it", "Settings", "Where and how long"]
    Balanced(text)


def test_flags_are_said_and_drawn(folder):
    table = [evaluation(0, 0.2), evaluation(50, 0.1), evaluation(100, 0.3, 14.0, sensitivity=0.2)]
    write_evaluations(folder / "signals.csv", table)
    text = written(folder)
    assert "Use step 50: from step 100 on it is over-trained." in text
    assert "From step 100 on the concept overpowers the rest of the prompt: the least prompt" in text
    assert text.count(">overpowers the rest of the prompt</text>") == 1
    assert text.count(">out of the range of known words</text>") == 1
    assert 'class="verdict flagged"' in text
    write_evaluations(folder / "signals.csv", [evaluation(0, 0.2), evaluation(50, 0.1)])
    text = written(folder)
    assert "It was still improving at the end" in text and 'class="verdict good"' in text
    assert "still improving" not in written(folder, finished=False)


@pytest.mark.parametrize(
    ("table", "headline", "over_trained", "more"),
    [
        (
            [evaluation(0, 0.2), evaluation(9, 0.1)],
            "Use step 9, the last: it is the best.",
            "No sign of it: the least prompt sensitivity was 1.20",
            "It was still improving at the end: more steps may help.",
        ),
        (
            [evaluation(0, 0.1), evaluation(9, 0.2)],
            "No evaluation was better than that of step 0: it has learned nothing yet.",
            "No sign of it",
            "",
        ),
        (
            [evaluation(0, 0.1), evaluation(9, float("nan")), evaluation(18, float("inf"))],
            None,
            "",
            "",
        ),
        (
            [evaluation(0, 0.2), evaluation(5, 0.1), evaluation(9, float("nan"))],
            "The validation loss of step 9 is not finite.",
            "No sign of it",
            "",
        ),
        (
            [evaluation(0, 0.2), evaluation(9, 0.1, sensitivity=0.25)],
            "Every evaluation from step 9 on is over-trained: lower learning_rate.",
            "From step 9 on the concept overpowers the rest of the prompt: the least prompt sensitivity was "
            "0.25, below the limit of 0.5.",
            "",
        ),
        (
            [evaluation(step, 0.1 if step else 0.2) for step in range(0, 201, 40)],
            "Use step 40: it is the best of 5 evaluations.",
            "No sign of it",
            "No longer improving since step 40: more steps bring nothing.",
        ),
        (
            [evaluation(0, 0.2, sensitivity=None), evaluation(9, 0.1, 12.0, sensitivity=None)],
            "Use step 9, the last: it is the best.",
            "Step 9: the rows have left the range of known words: over-training is likely.",
            "",
        ),
        (
            [evaluation(0, 0.2, sensitivity=None), evaluation(9, 0.1, sensitivity=None)],
            "Use step 9, the last: it is the best.",
            "Not measured",
            "It was still improving at the end: more steps may help.",
        ),
    ],
)
def test_a_verdict_in_a_sentence(table, headline, over_trained, more):
    said = verdict(table)
    if headline is None:
        assert said is None
        return
    assert said.headline(True) == headline
    assert said.over_training.startswith(over_trained) and said.more_steps(True) == more


@pytest.mark.parametrize("at", [100, 200])
def test_the_file_that_is_named_holds_the_best_vectors(folder, at):
    text = written(folder, steps=at)
    file = "learned_embeds.safetensors" if at == 100 else "learned_embeds-best.safetensors"
    assert f"<code>{file}</code> holds those vectors" in text


def test_how_to_use_a_style_a_single_file_and_clip_skip(folder):
    text = html.unescape(
        written(
            folder, kind="style", base="/models/v1-5.safetensors", single_file=True, config={"clip_skip": 1}
        )
    )
    assert 'from_single_file("v1-5.safetensors")' in text and "/models" not in text
    assert 'pipe("a painting in the style of <toy>", clip_skip=1)' in text
    (command,) = re.findall(r"python scripts/generate\.py [^<]*(?:<toy>[^<]*)?", text)
    assert [complaint(each) for each in commands_of("page", command)] == [None]
    assert "--clip_skip 1" in text and '"Clip skip" 2: set the same' in text


def test_an_old_contact_sheet_is_shown_as_it_is_within_bounds(folder):
    noise = np.random.default_rng(0).integers(0, 256, (3000, 2800, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "contact_sheet.png")
    text = written(folder)
    assert "<h2>Before and after</h2>" in text and "Training images</h2>" not in text
    (sheet,) = [link for link in Balanced(text).images if link.startswith("data:image/jpeg")]
    assert pixels(sheet).shape == (2571, 2400, 3)


def test_a_run_that_goes_on_says_how_far_it_was(folder):
    text = written(folder, finished=False, steps=400)
    assert "When this page was written: Step 200 of 400, 0:20 left." in text
    assert '<progress value="0.5000" max="1"' in text and "learns from 5 images" in text
    assert "So far step 100 is the best." in text
    assert "When this page was written" not in written(folder)


@pytest.mark.parametrize(
    ("content", "found"),
    [(None, "No such file"), ("{", "Expecting"), ('{"token": "x"}', "missing"), ("[]", "must be a mapping")],
)
def test_a_folder_of_something_else_is_refused(tmp_path, content, found):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(DataError, match=found):
        write_report(tmp_path)


def test_facts_are_kept_as_they_were(tmp_path):
    facts().write(tmp_path)
    assert RunFacts.read(tmp_path) == facts()
    assert json.loads((tmp_path / "run.json").read_text())["config"]["seed"] == 3


def test_a_path_whose_bytes_are_no_utf8_is_shown_as_far_as_it_is_text(tmp_path):
    text = written(tmp_path, base="/models/caf\udce9", config={"output_dir": "out\udce9"})
    assert "caf?" in text and "out?" in text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_shows_it_without_complaint(folder, tmp_path_factory):
    written(folder, token=HOSTILE)
    profile = tmp_path_factory.mktemp("profile")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--no-first-run", "--disable-component-update", "--disable-sync", "--enable-logging=stderr"]
    command += [f"--user-data-dir={profile}", "--dump-dom", (folder / "report.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in shown.stderr
    assert shown.stdout.count("<svg") == 7 and shown.stdout.count("<h2>") == 8
