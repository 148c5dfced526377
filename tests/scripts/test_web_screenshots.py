"""The pictures of the page, taken of a run that is there already."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import web_screenshots
from PIL import Image
from report_pages import evaluation, facts, run_folder

from ti_flax.embedding.learned_embeds import save_learned_embeds
from ti_flax.monitoring.row_statistics import write_evaluations

pytest.importorskip("gradio", reason="the page needs gradio")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no Chromium")
def test_the_page_is_taken_wide_narrow_and_dark(tmp_path):
    pytest.importorskip("playwright.sync_api", reason="there is no Playwright")
    finished, output = tmp_path / "run", tmp_path / "pictures"
    finished.mkdir()
    run_folder(finished)
    facts(finished=True).write(finished)
    write_evaluations(finished / "signals.csv", [evaluation(step, 0.3) for step in (0, 100, 200)])
    save_learned_embeds(finished / "learned_embeds.safetensors", "<toy>", np.ones((2, 768), np.float32))
    # As a process, where warnings of Gradio's and pandas' are no errors.
    command = [sys.executable, web_screenshots.__file__, "--output_dir", str(output), "--run", str(finished)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    taken = {path.stem: Image.open(path) for path in output.iterdir()}
    widths = {name: image.width for name, image in taken.items()}
    assert 390 <= widths.pop("narrow") < 400  # hardly anything is wider than the window
    assert widths == {"wide": 1280, "dark": 1280, "web": 920}
    lightness = {name: np.asarray(image.convert("L")).mean() for name, image in taken.items()}
    assert lightness["dark"] < 100 < 200 < min(lightness["wide"], lightness["narrow"])
    assert taken["web"].height < taken["wide"].height / 2
    assert len(done.stdout.splitlines()) == 4


def test_what_is_missing_is_said_in_a_line(tmp_path, capsys):
    told = ["--output_dir", str(tmp_path / "pictures"), "--browser", "/none"]
    assert web_screenshots.main(told) == 2
    said = capsys.readouterr().err
    assert said == "error: --browser: expected a browser such as chromium, found /none\n"
    assert not (tmp_path / "pictures").exists()
