"""The page of a run: what it says of which files, that it needs nothing else, and that a browser shows it."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from report_pages import Balanced, evaluation, facts
from shown_commands import commands_of, complaint

from ti_flax.errors import DataError
from ti_flax.monitoring.report.facts import RunFacts
from ti_flax.monitoring.report.page import drawn_vectors, write_report
from ti_flax.monitoring.row_statistics import write_evaluations

HOSTILE = '<img src=x onerror="alert(1)">'


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"{step},{rng.random():.4f},{2e-3 / step:.6f},0.01,80" for step in range(1, 201)]
    header = "step,loss,learning_rate,grad_norm,samples_per_second"
    (tmp_path / "metrics.csv").write_text("\n".join([header, *lines, "201,0.1"]))
    write_evaluations(
        tmp_path / "signals.csv", [evaluation(0, 0.2), evaluation(100, 0.125), evaluation(200, 0.15)]
    )
    (tmp_path / "validation").mkdir()
    for step in range(0, 201, 20):
        Image.new("RGB", (8, 8), (step, 0, 0)).save(tmp_path / "validation" / f"step-{step}.png")
    Image.new("RGB", (30, 30)).save(tmp_path / "contact_sheet.png")
    return tmp_path


def written(folder, **changes):
    facts(**changes).write(folder)
    return write_report(folder).read_text(encoding="utf-8")


def test_what_the_page_says(folder):
    text = written(folder)
    plain = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text.partition("</style>")[2])))
    for words in (
        "<toy> A Textual Inversion concept (object) for somebody/model : 2 vectors of 64 numbers, learned "
        "from 5 images in 200 steps of 8 samples at learning rate 0.002, constant, starting from the word "
        '"cat".',
        "The validation loss was 0.2000 at step 0 and is 0.1500 at step 200. The best was 0.1250 at step 100",
        "before after 20 steps after 60 steps",
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
    assert "<td>1, text_encoder_2</td><td>0.600</td>" in text and "<td>2</td><td>0.600</td>" in text
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
    assert "script" not in page.tags and "link" not in page.tags
    assert page.links and all(link.startswith("data:image/") for link in page.links)
    assert "default-src 'none'" in text and "secret place" not in text and "cats" in text
    assert not list(folder.glob(".unfinished*"))


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
        config={HOSTILE: HOSTILE, "validation_prompt": [HOSTILE]},
        versions={HOSTILE: HOSTILE},
        times={HOSTILE: 1.0},
    )
    page = Balanced(text)
    assert all(link.startswith("data:") for link in page.links)
    assert "onerror" in text and '<img src="x"' not in text and "<img src=x" not in text


def test_what_is_not_there_is_left_out(tmp_path):
    text = written(tmp_path)
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles == ["Use it", "Settings", "Where and how long"]
    Balanced(text)


def test_flags_are_said_and_drawn(folder):
    write_evaluations(
        folder / "signals.csv",
        [evaluation(0, 0.2), evaluation(50, 0.1), evaluation(100, 0.3, 14.0, sensitivity=0.2)],
    )
    text = written(folder)
    assert "Step 100:</b> the concept overpowers the rest of the prompt: use step 50" in text
    assert text.count("below it the concept overpowers the rest of the prompt") == 1
    assert text.count("out of the range of known words") == 1
    write_evaluations(folder / "signals.csv", [evaluation(0, 0.2), evaluation(50, 0.1)])
    assert "It was still improving at the end" in written(folder)


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


def test_small_images_keep_their_pixels_and_large_ones_their_size_in_bounds(folder):
    import base64
    import io

    noise = np.random.default_rng(0).integers(0, 256, (3000, 2800, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "contact_sheet.png")
    sheet, first = Balanced(written(folder)).links[:2]
    assert sheet.startswith("data:image/jpeg;base64,") and first.startswith("data:image/png;base64,")
    with Image.open(io.BytesIO(base64.b64decode(sheet.partition(",")[2]))) as shown:
        assert shown.size == (2400, 2571)
    content = base64.b64decode(first.partition(",")[2])
    assert content == (folder / "validation" / "step-0.png").read_bytes()


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
