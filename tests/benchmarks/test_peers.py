"""The comparison with diffusers' scripts, against stand-ins that show progress as those do."""

import json
import subprocess
import sys
from pathlib import Path

import peers
import pytest
from environment import xla_flags

from ti_flax.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = """
import argparse
import time
from tqdm.auto import tqdm

parser = argparse.ArgumentParser()
for name in ("max_train_steps", "train_batch_size", "repeats"):
    parser.add_argument(f"--{name}", type=int, default=100)
options, _ = parser.parse_known_args()
"""
# One bar of all steps, which shows the loss of each.
PYTORCH = f"""{OPTIONS}
bar = tqdm(range(options.max_train_steps), desc="Steps")
for step in range(options.max_train_steps):
    time.sleep(0.01)
    bar.update(1)
    bar.set_postfix(loss=1.0)
"""
# That for SDXL cuts squares besides, and wants a second tokenizer, which pads otherwise than the first.
SDXL = f"""
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision import transforms

image = Image.fromarray(np.arange(6 * 7 * 3, dtype=np.uint8).reshape(6, 7, 3))
top, left, height, width = transforms.RandomCrop(4).get_params(image, (4, 5))
cut = np.asarray(transforms.functional.crop(image, top, left, height, width))
np.testing.assert_array_equal(cut, np.asarray(image)[top : top + 4, left : left + 5])
assert transforms.RandomHorizontalFlip(p=0.0)(image) is image

(model,) = (flag.partition("=")[2] for flag in sys.argv if flag.startswith("--pretrained_model"))
configs = [Path(model) / name / "tokenizer_config.json" for name in ("tokenizer", "tokenizer_2")]
assert [json.loads(file.read_text())["pad_token"] for file in configs] == ["<|endoftext|>", "!"]
{PYTORCH}
"""
# A bar of epochs, one of each epoch's steps, and a line with the loss at the end of an epoch.
FLAX = f"""{OPTIONS}
steps = 5 * options.repeats // options.train_batch_size
epochs = tqdm(range(-(-options.max_train_steps // steps)), desc="Epoch ... (1/9)", position=0)
for epoch in epochs:
    bar = tqdm(total=steps, desc="Training...", position=1, leave=False)
    for step in range(steps):
        time.sleep(0.02)
        bar.update(1)
    bar.close()
    epochs.write("Epoch... Loss: 1.0")
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Compares with scripts of the given texts, five steps a turn; returns the program's arguments."""
    (tmp_path / "examples" / "textual_inversion").mkdir(parents=True)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", xla_flags(None))  # one device, as the scripts have

    def compare(pytorch=PYTORCH, flax=FLAX, *more):
        for name, text in (("textual_inversion.py", pytorch), ("textual_inversion_flax.py", flax)):
            (tmp_path / "examples" / "textual_inversion" / name).write_text(text)
        flags = ["--examples", tmp_path / "examples", "--work", tmp_path / "work", "--preset", "tiny"]
        flags += ["--batch", 1, "--segment", 5, "--turns", 2, "--flax-python", sys.executable]
        flags += ["--json", tmp_path / "peers.json", *more]
        peers.main([str(flag) for flag in flags])

    return compare


def test_each_script_makes_the_steps_of_its_turns_and_the_last_line_has_the_ratios(run, tmp_path, capsys):
    run()
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ours", "pytorch", "flax"]
    words = last.split()
    assert words[0] == "samples/s" and words[1::2] == [
        "ours",
        "pytorch",
        "flax",
        "ratio-pytorch",
        "ratio-flax",
    ]
    ours, pytorch, flax, of_pytorch, of_flax = map(float, words[2::2])
    # They sleep 0.01 and 0.02 s a step, and no clock runs backwards.
    assert 0 < pytorch <= 100 and 0 < flax <= 50
    assert of_pytorch == pytest.approx(ours / pytorch, abs=0.02 + ours / pytorch * 0.01)
    rates = json.loads((tmp_path / "peers.json").read_text())
    assert {name: len(found) for name, found in rates.items()} == {"ours": 2, "pytorch": 2, "flax": 2}
    assert of_flax == pytest.approx(ours / flax, abs=0.02 + ours / flax * 0.01)


def test_ours_learns_beside_the_script_for_sdxl(tmp_path, monkeypatch, capsys):
    (tmp_path / "textual_inversion").mkdir()
    (tmp_path / "textual_inversion" / "textual_inversion_sdxl.py").write_text(SDXL)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", xla_flags(None))
    flags = ["--examples", str(tmp_path), "--work", str(tmp_path / "work"), "--script", "sdxl"]
    peers.main([*flags, "--preset", "sdxl-tiny", "--batch", "1", "--segment", "5", "--turns", "1"])
    assert capsys.readouterr().out.splitlines()[-1].split()[1::2] == ["ours", "pytorch", "ratio-pytorch"]
    assert not (tmp_path / "work" / "flax").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--script", "sdxl", "--preset", "mid"],
            "expected one of sdxl-mid, sdxl-tiny, sdxl with --script sdxl",
        ),
        (["--preset", "sdxl"], "expected one of mid, .* with --script sd, found sdxl"),
        (["--script", "sdxl", "--flax-python", "python"], "--flax-python: expected none with --script sdxl"),
    ],
)
def test_shapes_and_scripts_that_do_not_go_together_are_one_line(flags, message, monkeypatch):
    monkeypatch.setattr(peers, "write_materials", lambda options: pytest.fail("it began"))
    with pytest.raises(ConfigError, match=message):
        peers.main(["--examples", "nowhere", *flags])


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("raise SystemExit('no such model')", "found no such model"),
        ("import time\ntime.sleep(60)", "found none of its 5 steps within 3 s"),
    ],
)
def test_a_script_that_shows_no_step_is_one_line(run, monkeypatch, script, found):
    scripts = peers.scripts
    monkeypatch.setattr(peers, "scripts", lambda *arguments: scripts(*arguments)[1:2])
    with pytest.raises(ConfigError, match=f"the pytorch script: expected to train, {found}"):
        run(script, FLAX, "--wait", 30 if "SystemExit" in script else 3)


@pytest.mark.parametrize(("flags", "code"), [(["--help"], 0), ([], 2)])
def test_the_timer_says_how_it_is_used(flags, code):
    program = ROOT / "benchmarks" / "timed_script.py"
    done = subprocess.run([sys.executable, program, *flags], capture_output=True, text=True)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert "python benchmarks/timed_script.py SEGMENT TOTAL SCRIPT" in done.stderr
