"""The demo's programs, run with a model that is too small to learn."""

import measure
import pytest
import train_base
from safetensors.numpy import load_file


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
