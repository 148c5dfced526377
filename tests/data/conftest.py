import pytest
from tiny_vae import random_params, random_pixels

from ti_flax.config import RunConfig


@pytest.fixture(scope="session")
def params():
    """Parameters of the tiny autoencoder."""
    return random_params()


@pytest.fixture(scope="session")
def pixels():
    """Three images of 16 x 16 pixels."""
    return random_pixels()


@pytest.fixture
def image_options(tmp_path):
    """Return a function that gives options of images in the folder `pictures`, with changes."""

    def configured(**changes):
        given = {
            "pretrained_model_name_or_path": "model",
            "placeholder_token": "<thing>",
            "initializer_token": "toy",
            "train_data_dir": str(tmp_path / "pictures"),
            "output_dir": str(tmp_path / "out"),
            "resolution": 16,
        }
        return RunConfig.from_dict(given | changes).images

    return configured


@pytest.fixture
def warned(caplog):
    """Return a function that gives the warnings logged since it was last called."""

    def messages():
        found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        caplog.clear()
        return found

    return messages
