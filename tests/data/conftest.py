import pytest
from tiny_vae import random_params, random_pixels


@pytest.fixture(scope="session")
def params():
    """Parameters of the tiny autoencoder."""
    return random_params()


@pytest.fixture(scope="session")
def pixels():
    """Three images of 16 x 16 pixels."""
    return random_pixels()


@pytest.fixture
def warned(caplog):
    """Return a function that gives the warnings logged since it was last called."""

    def messages():
        found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        caplog.clear()
        return found

    return messages
