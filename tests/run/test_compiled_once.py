"""A second run with other images, prompts, numbers and word compiles nothing."""

import logging

import jax
import pytest
from shared_programs import PROGRAMS
from tiny_folder import write_images
from tiny_run import configure

from ti_flax.run import train as run

WATCHED = {
    "eval_steps": 2,
    "validation_prompt": "a <thing>",
    "num_validation_images": 2,
    "validation_steps": 3,
}
MISSED = "PERSISTENT COMPILATION CACHE MISS for '"
# What JAX calls the programs of `pmap` - step, validation loss and prompt sensitivity - and the previews'.
STEP_AND_EVALUATION, PREVIEW = "jit__fun", "jit_draw"
# The learning rates of all steps, which are looked at once and take a hundredth of a second.
RATES = "jit_broadcast_in_dim"


@pytest.fixture
def compiled(tmp_path):
    """Runs with a compilation cache of their own; gives the names of the programs that were not in it."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    messages, handler, logger = [], logging.Handler(), logging.getLogger("jax._src.compiler")
    handler.emit = lambda record: messages.append(record.getMessage())

    def names_of(config):
        PROGRAMS.clear()
        jax.clear_caches()
        messages.clear()
        run.train(config)
        return [message.split("'")[1] for message in messages if message.startswith(MISSED)]

    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    logger.addHandler(handler)
    level, passed_on = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield names_of
    logger.removeHandler(handler)
    logger.setLevel(level)
    logger.propagate = passed_on
    for name, value in before.items():
        jax.config.update(name, value)


def test_a_second_run_of_another_concept_compiles_nothing(place, tmp_path, compiled):
    first = compiled(configure(place, tmp_path / "first", **WATCHED))
    assert first.count(STEP_AND_EVALUATION) == 3 and first.count(PREVIEW) == 1, first
    images = write_images(tmp_path / "five", count=5)
    for number in range(5):
        (images / f"{number}.txt").write_text(f"{number * 'red '}car")
    other = {
        "train_data_dir": [str(images), str(images / "3.png")],
        "repeats": [3, 7],
        "captions": "files",
        "placeholder_token": "<other>",
        "initializer_token": "blue car",
        "learnable_property": "style",
        "learning_rate": 2e-3,
        "max_train_steps": 9,
        "seed": 8,
        "validation_prompt": "the <other> of a house",
    }
    again = compiled(configure(place, tmp_path / "second", **WATCHED | other))
    assert set(again) <= {RATES}
