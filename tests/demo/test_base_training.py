"""The demo's programs, run with a model that is too small to learn."""

import argparse
import json

import denoiser
import jax
import measure
import numpy as np
import pytest
import train_base
from safetensors.numpy import load_file

from ti_flax.errors import ConfigError


@pytest.fixture(scope="module")
def model(tiny_base_model):
    return tiny_base_model


def test_a_tiny_base_model_is_trained_saved_measured_and_described(model):
    card = (model / "README.md").read_text()  # base_card.write_card
    assert "| unet | UNet2DConditionModel |" in card and "**Data.** 8 " in card
    assert "`python demo/train_base.py --size tiny`, seed 0" in card
    assert {"unet", "vae", "text_encoder", "tokenizer"} <= {path.name for path in model.iterdir()}


def test_it_goes_on_where_it_stopped(model, tmp_path):
    """With all updates made, a second run writes the same weights, whatever their batch would now be."""
    flags = ["--size=tiny", f"--output={tmp_path}", f"--work={model.parent / 'work'}", "--scenes=8"]
    flags += ["--captions=1", "--autoencoder_steps=3", "--denoiser_steps=3", "--samples=8"]
    train_base.main(flags)
    weights = "unet/diffusion_pytorch_model.safetensors"
    first, second = load_file(model / weights), load_file(tmp_path / weights)
    assert all((first[name] == second[name]).all() for name in first)


TINY = ["--size=tiny", "--scenes=8", "--captions=1", "--batch_size=2", "--denoiser_steps=1", "--samples=8"]


def test_it_goes_on_from_a_finished_model(model, tmp_path, monkeypatch):
    """The autoencoder stays; rows go with their tokens, of which there may be more now."""
    monkeypatch.setattr("captions.GENERIC", ("object", "thing", "toy", "shape", "aardvark"))
    flags = [f"--start={model}", f"--output={tmp_path / 'new'}", f"--work={tmp_path}", "--peak_rate=0"]
    train_base.main([*TINY, *flags, "--described=0.5"])
    weights = {"vae": "diffusion_pytorch_model", "unet": "diffusion_pytorch_model", "text_encoder": "model"}
    for name, file in weights.items():
        first, second = (
            load_file(folder / name / f"{file}.safetensors") for folder in (model, tmp_path / "new")
        )
        table = [each for each in first if "token_embedding" in each]
        assert all((first[each] == second[each]).all() for each in first if each not in table), name
        if table:
            vocabularies = [vocabulary_of(folder) for folder in (model, tmp_path / "new")]
            assert len(vocabularies[1]) > len(vocabularies[0])
            for token, index in vocabularies[0].items():
                if token in vocabularies[1]:
                    rows = first[table[0]][index], second[table[0]][vocabularies[1][token]]
                    np.testing.assert_array_equal(*rows)
    assert "from a finished model, whose autoencoder stays" in (tmp_path / "new" / "README.md").read_text()


def vocabulary_of(folder):
    return json.loads((folder / "tokenizer" / "vocab.json").read_text())


def test_a_start_that_cannot_be_gone_on_from_is_refused(model, tmp_path):
    with pytest.raises(ConfigError, match="--output: expected another folder than --start"):
        train_base.main([*TINY, f"--start={model}", f"--output={model}", f"--work={tmp_path}"])
    (tmp_path / "model.bin").touch()
    for name, found in (("nowhere", "no such folder"), ("model.bin", "a file")):
        message = f"--start .*{name}: expected the folder of a finished model, found {found}"
        with pytest.raises(ConfigError, match=message):
            train_base.main([*TINY, f"--start={tmp_path / name}", f"--output={tmp_path / 'new'}"])
        assert not (tmp_path / "new").exists()
    flags = [f"--start={train_base.ROOT / 'assets' / 'demo-model'}", f"--output={tmp_path / 'new'}"]
    with pytest.raises(
        ConfigError, match="--start .*: expected a model of --size, found one of another shape"
    ):
        train_base.main([*TINY, *flags, f"--work={tmp_path}"])


def test_a_share_of_each_batch_shows_shapes_without_a_noun():
    keys, described = jax.random.split(jax.random.key(0)), np.array([3, 5])
    chosen = {}
    for share in (0.0, 0.5):
        options = argparse.Namespace(batch_size=4000, described=share)
        scene, caption = denoiser.choose(keys, described, (100, 4), options)
        assert scene.shape == caption.shape == (4000,) and int(caption.max()) == 3
        chosen[share] = float(np.isin(scene, described).mean())
    assert chosen[0.0] == pytest.approx(0.02, abs=0.01) and chosen[0.5] == pytest.approx(0.51, abs=0.03)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers' scheduler
@pytest.mark.parametrize("flags", [[], ["--pytorch"]], ids=["jax", "pytorch"])
def test_a_model_is_measured(model, flags, capsys):
    if flags:
        pytest.importorskip("diffusers")
        pytest.importorskip("torch")
    measure.main(["--model", str(model), "--samples", "8", "--steps", "2", *flags])
    lines = capsys.readouterr().out.splitlines()
    assert [line[:11].strip() for line in lines] == ["captions", "round trip"]
    assert all(name in line for line in lines for name in measure.ATTRIBUTES)
