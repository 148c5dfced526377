"""A run whose prompts have two chunks, and previews that have settings of their own."""

import types

import numpy as np
import pytest
from tiny_run import configure, learned

from ti_flax.models.tokenizer import encode_prompts
from ti_flax.run import hooks, result
from ti_flax.run import train as run
from ti_flax.run.inputs import read_inputs


def test_a_word_beyond_the_first_chunk_learns(place, tmp_path):
    given = {"max_token_length": 150, "prompt_template": "red " * 90 + "{}", "max_train_steps": 1}
    config = configure(place, tmp_path / "run", **given)
    inputs = read_inputs(config)
    (word,) = inputs.concept.words
    assert inputs.examples.token_ids.shape == (1, 1, 154)
    assert np.flatnonzero(inputs.examples.token_ids == word.token_ids[0]).tolist() == [77 + 16]
    folder = run.train(config)
    moved = np.abs(learned(folder) - inputs.added.start["text_encoder"]).max(axis=1)
    assert (moved > 1e-3).all()
    assert "\nmax_token_length: 150\n" in (folder / "README.md").read_text()


OPTIONS = {
    "validation_prompt": ["red " * 80 + "({}:1.5)", "a {}"],
    "validation_negative_prompt": "a [{}]",
    "validation_size": "48x32",
    "validation_seed": 7,
    "validation_sampler": "ddim",
    "validation_num_inference_steps": 2,
    "validation_guidance_scale": 3.5,
    "num_validation_images": 2,
    "prompt_weights": True,
    "max_token_length": 150,
}


@pytest.fixture
def asked(place, tmp_path, monkeypatch):
    """What the previews of a run with these options ask of the generator, and draw, without drawing it."""

    def ask(**options):
        config = configure(place, tmp_path, **options)
        inputs = read_inputs(config)
        monkeypatch.setattr(hooks, "local_copies", lambda frozen, devices: {})
        monkeypatch.setattr(hooks, "replicate", lambda params, devices: None)
        monkeypatch.setattr(hooks, "ImageGenerator", lambda model, **settings: settings)
        monkeypatch.setattr(hooks, "Drawing", lambda generator, params, **given: generator | given)
        step_config = types.SimpleNamespace(special=inputs.tokenizers.special, first_added_id=5)
        beside = hooks.Beside(config, step_config, inputs, {}, None, ["device"] * 4, tmp_path, None)
        return config, inputs, hooks.previewer(beside)

    return ask


def test_previews_are_drawn_as_the_options_say(asked):
    config, inputs, found = asked(**OPTIONS)
    names = ("steps", "sampler", "size", "guidance_scale", "images")
    assert [found[name] for name in names] == [2, "ddim", (32, 48), 3.5, 2]
    first = inputs.concept.words[0].token_ids[0]
    prompts, negative, seeds = found["prompts"]
    assert prompts.ids.shape == prompts.weights.shape == (2, 154) and negative.ids.shape == (2, 77)
    assert seeds == [7, 7]
    expected = encode_prompts(inputs.tokenizer, ["red " * 80 + "<thing>", "a <thing>"], chunks=2)
    np.testing.assert_array_equal(prompts.ids, expected)
    assert (prompts.weights[0] == np.where(expected[0] >= first, np.float32(1.5), 1)).all()
    assert (prompts.weights[1] == 1).all()
    assert negative.weights[1, 2:4] == pytest.approx([1 / 1.1] * 2)
    assert config.preview_size == (32, 48)
    on_card = result._settings(config, inputs.previews.options)
    shown = ("validation_size", "validation_seed", "validation_sampler", "prompt_weights")
    assert [on_card[name] for name in shown] == ["48x32", 7, "ddim", True]
    assert "validation_prompt" not in on_card


def test_without_them_previews_are_as_ever(asked):
    config, inputs, found = asked(validation_prompt="a ({}:1.5)", num_validation_images=2)
    names = ("steps", "sampler", "size", "guidance_scale")
    assert [found[name] for name in names] == [25, "dpmsolver++", (32, 32), 7.5]
    expected = encode_prompts(inputs.tokenizer, ["a (<thing>:1.5)", ""])
    prompts, negative, seeds = found["prompts"]
    np.testing.assert_array_equal(prompts.ids, expected[:1])
    np.testing.assert_array_equal(negative.ids, expected[1:])
    assert prompts.weights is negative.weights is None and seeds == [3]
    on_card = result._settings(config, inputs.previews.options)
    assert not [name for name in on_card if name.startswith("validation")]


def test_lines_of_a_file_say_how_they_are_drawn(asked, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text(
        "a {} --n red {} --d 5 --w 48 --s 3 --l 2 --ss euler\na toy --w 48 --s 3 --l 2 --ss euler\n"
    )
    options = {"validation_negative_prompt": "blue", "validation_seed": 7, "num_validation_images": 2}
    config, inputs, found = asked(validation_prompt_file=str(file), **options)
    names = ("steps", "sampler", "size", "guidance_scale")
    assert [found[name] for name in names] == [3, "euler", (32, 48), 2.0]
    prompts, negative, seeds = found["prompts"]
    expected = encode_prompts(inputs.tokenizer, ["a <thing>", "a toy", "red <thing>", "blue"])
    np.testing.assert_array_equal(np.concatenate([prompts.ids, negative.ids]), expected)
    assert seeds == [5, 7]
    on_card = result._settings(config, inputs.previews.options)
    drawn = {name: value for name, value in on_card.items() if name.startswith("validation")}
    assert drawn == {
        "validation_size": "48x32",
        "validation_sampler": "euler",
        "validation_num_inference_steps": 3,
        "validation_guidance_scale": 2.0,
    }
