"""The public names of the package, and the examples of docs/api.md as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import configure

import ti_flax

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def test_importing_the_package_imports_nothing_else():
    code = "import sys, ti_flax; print({'jax', 'numpy', 'yaml', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_training_needs_neither_datasets_nor_torch_nor_diffusers():
    code = (
        "import sys, ti_flax.run.train; "
        "print({'datasets', 'pyarrow', 'pandas', 'torch', 'diffusers', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_every_public_name_exists_and_is_documented():
    for name in ti_flax.__all__:
        assert getattr(ti_flax, name) is not None
        assert name == "__version__" or re.search(rf"`{name}\b", PAGE), name
    assert set(ti_flax.__all__) <= set(dir(ti_flax))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        ti_flax.trian  # noqa: B018


def test_the_examples_run(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = {"placeholder_token": "<my-cat>", "initializer_token": "cat", "max_train_steps": 2}
    config = configure(place, "outputs/cat", **options)
    Path("cat.yaml").write_text(config.to_yaml(), encoding="utf-8")
    first, second = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    names = {}
    exec(first, names)
    said = capsys.readouterr().out
    assert "<my-cat> (2, 32)" in said and "my-cat.pt" in said
    assert names["config"].optimizer.learning_rate == 1e-3
    assert names["images"][0].size == (32, 32) and len(names["images"]) == 2
    exec(second, names)
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 ")
    assert Path("watched/learned_embeds.safetensors").is_file()


def test_paths_in_a_file_are_found_beside_it_first(tmp_path, monkeypatch):
    beside, here = tmp_path / "there" / "conf", tmp_path / "here"
    for folder in (beside, here, tmp_path / "there" / "images"):
        folder.mkdir(parents=True)
    for folder in (beside, here):
        (folder / "both").mkdir()
    (here / "only-here").mkdir()
    (beside / "word.bin").touch()
    (beside / "run.yaml").write_text(
        "pretrained_model_name_or_path: both\n"
        "placeholder_token: <x>\ninitializer_token: cat\n"
        "train_data_dir: [../images, only-here, owner/dataset]\n"
        "extra_embeds: <y>=word.bin\n"
        "output_dir: both\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(here)
    config = ti_flax.load_config("../there/conf/run.yaml")
    assert config.model.pretrained_model_name_or_path == "../there/conf/both"
    assert config.images.train_data_dir == ("../there/images", "only-here", "owner/dataset")
    assert config.concept.extra_embeds == ("<y>=../there/conf/word.bin",)
    assert config.output.output_dir == "both"  # what is written goes where the user is
    assert ti_flax.load_config("../there/conf/run.yaml", seed=4).training.seed == 4
    with pytest.raises(ti_flax.TiFlaxError, match="unknown key 'sed'"):
        ti_flax.load_config("../there/conf/run.yaml", sed=4)
