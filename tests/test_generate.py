import generate
import numpy as np
import pytest
from PIL import Image
from tiny_folder import write_folder

from ti_flax.errors import ConfigError, TokenError, WeightsError
from ti_flax.export.learned_embeds import save_learned_embeds
from ti_flax.pictures import picture_grid


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("generate")
    write_folder(place / "model")
    rows = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)
    save_learned_embeds(place / "thing.safetensors", "<thing>", rows)
    save_learned_embeds(place / "wide.safetensors", "<wide>", np.zeros((1, 768)))
    save_learned_embeds(place / "known.safetensors", "cat</w>", rows)
    return place


def draw(place, output, *flags):
    model = ["--pretrained_model_name_or_path", str(place / "model"), "--num_inference_steps", "2"]
    arguments = [*model, "--prompt", "a <thing>", "--num_images", "2", "--output", str(output), *flags]
    generate.generate(generate.parse_arguments(arguments))
    with Image.open(output) as picture:
        return np.asarray(picture)


def test_a_grid_has_a_row_for_each_prompt(place, tmp_path):
    picture = draw(place, tmp_path / "new" / "a.png", "--prompt", "a cat", "--resolution", "16")
    assert picture.shape == (32, 32, 3)
    assert (picture[:16] != picture[16:]).any() and (picture[:, :16] != picture[:, 16:]).any()


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++"])
def test_what_changes_the_picture_and_what_does_not(place, tmp_path, sampler):
    flags = ["--sampler", sampler, "--resolution", "16"]
    embeds = ["--learned_embeds", str(place / "thing.safetensors")]
    plain = draw(place, tmp_path / "a.png", *flags)
    assert (plain == draw(place, tmp_path / "a.png", *flags)).all()
    for other in (embeds, ["--negative_prompt", "red"], ["--guidance_scale", "1"], ["--seed", "5"]):
        assert (plain != draw(place, tmp_path / "a.png", *flags, *other)).any(), other


def test_the_second_seed_is_the_next_one(place, tmp_path):
    first = draw(place, tmp_path / "a.png", "--resolution", "16")
    second = draw(place, tmp_path / "a.png", "--resolution", "16", "--seed", "1")
    assert (first[:, 16:] == second[:, :16]).all()


@pytest.mark.parametrize(
    "flags, kind, message",
    [
        (["--learned_embeds", "wide"], WeightsError, "vectors of 32 numbers for this model, found 768"),
        (["--learned_embeds", "known"], TokenError, "new to the tokenizer"),
        (["--learned_embeds", "nothing"], WeightsError, "learned_embeds.safetensors file"),
        (["--resolution", "15"], ConfigError, "a multiple of 4, found 15"),
        (["--num_images", "0"], ConfigError, "1 or more"),
        (["--num_inference_steps", "0"], ConfigError, "1 to 1000"),
    ],
)
def test_mistakes(place, tmp_path, flags, kind, message):
    if flags[0] == "--learned_embeds":
        flags = [flags[0], str(place / f"{flags[1]}.safetensors")]
    with pytest.raises(kind, match=message):
        draw(place, tmp_path / "a.png", *flags)
    assert not (tmp_path / "a.png").exists()


def test_a_grid_that_is_not_full_is_white_there():
    grid = np.asarray(picture_grid(np.zeros((3, 2, 2, 3), np.uint8)))
    assert grid.shape == (4, 4, 3)
    assert (grid[2:, 2:] == 255).all() and (grid[:2] == 0).all() and (grid[2:, :2] == 0).all()
