"""The page in a real browser: images dropped, a run started, stopped, found again, continued, downloaded."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_folder import write_folder
from web_pages import served, work_in

from ti_flax.embedding.read import load_embedding
from ti_flax.web.runs.processes import Program, environment

sync_api = pytest.importorskip("playwright.sync_api", reason="there is no Playwright")
BROWSER = shutil.which("chromium") or ""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BROWSER, reason="there is no Chromium, such as Debian's /usr/bin/chromium"),
]
ROOT = Path(__file__).resolve().parents[2]
# In milliseconds: on a busy machine a run takes a minute to begin.
PATIENCE = 300_000
HTML = '<img src=x onerror="document.title=1">'
FLAGS = "--eval_steps 0 --train_batch_size 1 --steps_per_call 5 --report_to none"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browsed")
    work = work_in(folder / "work")
    write_folder(work.root / "models" / "tiny")
    return folder


@pytest.fixture(scope="module")
def address(place):
    with served(place / "work") as (found, _):
        yield found
    for folder in (place / "work" / "runs").iterdir():  # of a test that failed in between
        Program(folder).ask_to_end()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser, address):
    """Opens the page; at the end, nothing else was asked for and no script has failed."""
    faults, pages = [], []

    def open_page():
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: faults.append(str(error)))
        elsewhere = (address, "data:", "blob:")
        page.on(
            "request", lambda asked: None if asked.url.startswith(elsewhere) else faults.append(asked.url)
        )
        page.goto(address)
        page.wait_for_selector("#start")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert faults == []


def field(page, name):
    return page.locator(f"#{name} input, #{name} textarea").first


def fill(page, name, text):
    field(page, name).fill(text)
    field(page, name).press("Tab")


def choose(page, name, text):
    """Writes into a field with choices."""
    field(page, name).fill(text)
    field(page, name).press("Enter")
    page.wait_for_timeout(500)


def says(page, name, text):
    sync_api.expect(page.locator(f"#{name}")).to_contain_text(re.compile(text), timeout=PATIENCE)


def test_wrong_inputs_are_answered_beside_their_fields(opened):
    page = opened()
    page.locator("#start").click()
    says(page, "fault-images", "expected images, found none")
    choose(page, "images", "../..")
    page.locator("#start").click()
    says(page, "fault-images", "expected a place in the work folder")
    choose(page, "images", "images/set")
    page.locator("#start").click()
    says(page, "fault-word", "placeholder_token")
    fill(page, "placeholder", HTML)
    says(page, "word-look", "one new token: <img src=x")
    fill(page, "initializer", "toy hat")
    says(page, "fault-start", "expected a single token")
    fill(page, "further", "--learnig_rate 3")
    page.locator("#start").click()
    says(page, "fault-further", "Did you mean --learning_rate")
    choose(page, "model", "../x")
    page.locator("#start").click()
    says(page, "fault-model", "expected a place in the work folder")
    assert page.title() == "ti_flax"  # no script of the word has run


def test_captions_are_written_by_hand_and_stay_text(opened, place):
    page = opened()
    choose(page, "images", "images/set")
    says(page, "captions", r"\.png")
    cell = page.locator("#captions [role=gridcell]").nth(1)
    cell.dblclick()
    page.keyboard.type(HTML)
    page.keyboard.press("Enter")
    written = place / "work" / "images" / "set"
    deadline = time.monotonic() + 60
    while not list(written.glob("*.txt")):
        assert time.monotonic() < deadline
        page.wait_for_timeout(200)
    assert [path.read_text() for path in written.glob("*.txt")] == [f"{HTML}\n"]
    says(page, "captions", "onerror")
    says(page, "use-captions", r"1 of \d images have one")
    assert page.title() == "ti_flax" and page.locator("#captions img").count() == 0


def test_from_images_to_a_file_that_diffusers_loads(opened, place):
    page = opened()
    choose(page, "model", "models/tiny")
    images = sorted((place / "work" / "images" / "set").glob("*.png"))
    page.locator("#drop input[type=file]").set_input_files(images[:3])
    says(page, "captions", r"003\.png")
    fill(page, "placeholder", "<thing>")
    fill(page, "initializer", "toy")
    fill(page, "previews", "a {}")
    page.locator("button", has_text="Settings").first.click()
    for name, text in (("resolution", "32"), ("max_train_steps", "400"), ("num_validation_images", "1")):
        fill(page, name, text)
    fill(page, "validation_steps", "200")
    fill(page, "save_steps", "200")
    fill(page, "further", FLAGS)
    page.locator("#start").click()
    says(page, "status", r"Step \d+ of 400")
    fill(page, "prompt", "two {}")
    page.locator("#draw").click()
    page.wait_for_selector("#samples img")
    page.locator("#stop").click()
    says(page, "status", "it stopped at step")
    page.close()
    page = opened()
    says(page, "status", "it stopped at step")
    page.locator("#go-on").click()
    says(page, "status", "The run is finished")
    page.locator("#preview").scroll_into_view_if_needed()
    page.wait_for_selector("#preview img")
    says(page, "preview-rows", "Drawn: a <thing>")
    page.locator("#reader label", has_text="diffusers").click()
    with page.expect_download() as download:
        page.locator("#files a").first.click()
    saved = place / download.value.suggested_filename
    download.value.save_as(saved)
    output = place / "work" / "runs" / "thing" / "output"
    row_in_diffusers_is_the_learned_one(place / "work" / "models" / "tiny", saved, output)
    [asked] = (output / "validation").glob("asked-*.png")
    assert asked.stat().st_size > 0


def test_images_are_cut_to_what_stands_out_in_them(opened, place):
    wide = place / "work" / "images" / "wide"
    wide.mkdir()
    for number, left in enumerate((8, 200, 100)):
        image = Image.new("RGB", (300, 100), "white")
        image.paste("red", (left, 20, left + 60, 80))
        image.save(wide / f"{number}.png")
    page = opened()
    choose(page, "images", "images/wide")
    says(page, "captions", r"2\.png")
    page.locator("#focal").click()
    page.wait_for_selector("#sheet img")
    page.wait_for_function("document.querySelector('#images input').value != 'images/wide'")
    chosen = field(page, "images").input_value()
    cut = sorted((place / "work" / chosen).glob("*.png"))
    assert [path.stem[0] for path in cut] == ["0", "1", "2"]
    for path in cut:
        with Image.open(path) as image:
            assert image.size == (64, 64)  # the demo's model learns from such
            red = np.asarray(image.convert("RGB"))[50, :, 1] < 128
            assert abs(red.sum() - 60 * 64 / 100) < 2  # all of what stands out


def test_a_second_run_waits_and_is_taken_out(opened, place):
    page = opened()
    choose(page, "model", "models/tiny")
    choose(page, "images", "images/set")
    fill(page, "initializer", "toy")
    page.locator("button", has_text="Settings").first.click()
    for name, text in (("resolution", "32"), ("max_train_steps", "100000")):
        fill(page, name, text)
    fill(page, "further", FLAGS)
    for word, said in (
        ("<first>", "Step \\d+ of 100000"),
        ("<second>", "It waits until the run at work has ended"),
    ):
        fill(page, "placeholder", word)
        page.locator("#start").click()
        says(page, "status", said)
    says(page, "queue", "second.*waiting")
    says(page, "stop", "Take out")
    page.locator("#stop").click()
    sync_api.expect(page.locator("#queue")).not_to_contain_text("waiting", timeout=PATIENCE)
    choose(page, "run", "first")
    says(page, "status", "Step \\d+ of 100000")
    page.locator("#stop").click()
    says(page, "status", "it stopped at step")


def test_a_concept_of_a_run_of_many_is_chosen_and_downloaded(opened, place):
    work = place / "work"
    listed = [
        {"name": name, "placeholder_token": f"<{name}>", "train_data_dir": str(work / "images" / "set")}
        for name in ("one", "two")
    ]
    (place / "list.json").write_text(json.dumps(listed))
    taught = (
        f"--concepts={place / 'list.json'} --output_dir={work / 'runs' / 'many' / 'output'} --resolution 32"
    )
    taught += f" --pretrained_model_name_or_path={work / 'models' / 'tiny'} --initializer_token toy {FLAGS}"
    taught += " --max_train_steps 10 --concepts_at_once 2"
    subprocess.run([sys.executable, ROOT / "train_flax.py", *taught.split()], check=True, env=environment())
    page = opened()
    choose(page, "run", "many")
    says(page, "status", "2 of 2 concepts are done")
    page.locator("#concept input").click()
    page.get_by_role("option", name="two: done").click()
    says(page, "status", "two is done")
    page.locator("#reader label", has_text="diffusers").click()
    with page.expect_download() as download:
        page.locator("#files a", has_text="").first.click()
    assert download.value.suggested_filename == "two.safetensors"
    download.value.save_as(place / "two.safetensors")
    learned = load_embedding(work / "runs" / "many" / "output" / "two" / "learned_embeds.safetensors")
    saved = load_embedding(place / "two.safetensors")
    assert saved.token == "<two>"
    assert saved.rows["text_encoder"].tobytes() == learned.rows["text_encoder"].tobytes()


def row_in_diffusers_is_the_learned_one(model, saved, output):
    """Loads what the browser has saved with diffusers, and compares it with what the run has written."""
    diffusers = pytest.importorskip("diffusers", reason="there is no diffusers")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(model)
    pipeline.load_textual_inversion(str(saved))
    [number] = pipeline.tokenizer("<thing>", add_special_tokens=False).input_ids
    row = pipeline.text_encoder.get_input_embeddings().weight[number].detach().numpy()
    learned = load_embedding(output / "learned_embeds.safetensors")
    assert learned.token == "<thing>" and learned.vectors == 1 and saved.name == "thing.safetensors"
    assert row.tobytes() == learned.rows["text_encoder"][0].tobytes()
