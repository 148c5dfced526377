"""What people tune, and what they train on, are arguments of the programs: with others they are the same."""

import time

import jax
import numpy as np
import pytest
from chunks import chunk_arguments, chunk_of
from row_trees import tree
from shared_programs import PROGRAMS
from tiny_folder import write_images
from tiny_models import LEAST
from tiny_run import configure
from tiny_step import VOCABULARY, make_frozen

from ti_flax.embedding.rows import AddedRows
from ti_flax.models.stable_diffusion import random_stable_diffusion
from ti_flax.monitoring import validation
from ti_flax.run import fit
from ti_flax.run import train as run
from ti_flax.run.fit import CHUNK_CAPACITY
from ti_flax.run.step_config import make_step_config
from ti_flax.training import devices as devices_module
from ti_flax.training.state import init_state


@pytest.fixture(scope="module")
def lowered(tmp_path_factory):
    """The text of the step's program for a configuration with some changes, before it is compiled."""
    place, model = tmp_path_factory.mktemp("place"), random_stable_diffusion(LEAST["sd1"], seed=0)
    devices = jax.devices()[:1]

    def text(added, **changes):
        config = configure(place, place / "out", **changes)
        step_config, _ = make_step_config(config, model, VOCABULARY, added=added, devices=1, batches=1)
        frozen = make_frozen(step_config)
        key = np.asarray(jax.random.key_data(jax.random.key(config.training.seed)))
        state, rates = init_state(step_config, added.start), np.zeros(CHUNK_CAPACITY)
        arguments = chunk_arguments(step_config, frozen, state, rates, 1, devices, key)
        return chunk_of(step_config, CHUNK_CAPACITY, frozen, devices).lower(*arguments).as_text()

    return text


def rows(scale=1.0):
    start = np.full((2, 32), 0.02 * scale, np.float32)
    learns, norms = np.array([True, True]), (0.4 * scale, 0.6 * scale)
    return AddedRows(tree(start), tree(learns), *map(tree, norms))


@pytest.mark.parametrize(
    ("fixed", "one", "other"),
    [
        ({}, {"learning_rate": 1e-3}, {"learning_rate": "0.05:3, 0.001"}),
        ({}, {"max_train_steps": 6}, {"max_train_steps": 3000}),
        ({}, {"seed": 1}, {"seed": 2}),
        ({}, {"lr_scheduler": "constant"}, {"lr_scheduler": "cosine", "lr_warmup_steps": 2}),
        ({}, {"max_grad_norm": 1.0}, {"max_grad_norm": 0.5}),
        ({}, {"grad_clip_value": 1.0}, {"grad_clip_value": 0.5}),
        ({"use_ema": True}, {"ema_decay": 0.9}, {"ema_decay": 0.99}),
        ({}, {"pull_to_start": 0.1}, {"pull_to_start": 0.2}),
        ({"optimizer": "directional"}, {"directional_kappa": 0.0}, {"directional_kappa": 0.1}),
        ({}, {"snr_gamma": 5.0}, {"snr_gamma": 1.0}),
        ({"loss_type": "huber"}, {"huber_c": 0.1, "huber_schedule": "snr"}, {"huber_schedule": "constant"}),
    ],
)
def test_other_numbers_are_the_same_program(lowered, fixed, one, other):
    assert lowered(rows(), **fixed, **one) == lowered(rows(), **fixed, **other)


@pytest.mark.parametrize(
    "changes",
    [
        {"embedding_norm": "keep", "pull_to_start": 0.1},
        {"embedding_norm": "limit", "pull_to_start": 0.1},
        {"optimizer": "directional", "use_ema": True},
    ],
    ids=["keep", "limit", "directional"],
)
def test_another_start_and_vocabulary_are_the_same_program(lowered, changes):
    assert lowered(rows(), **changes) == lowered(rows(2.0), **changes)


def test_what_is_computed_otherwise_is_another_program(lowered):
    plain = lowered(rows())
    for changes in ({"optimizer": "lion"}, {"snr_gamma": 5.0}, {"loss_type": "l1"}, {"max_grad_norm": 1.0}):
        assert lowered(rows(), **changes) != plain


class Lowered(BaseException):
    """Ends a run before its first update."""


@pytest.fixture(scope="module")
def programs(place, tmp_path_factory):
    """The texts of a whole run's programs, step and evaluation, before they are compiled."""

    def texts(**changes):
        found = []

        class Recorded:
            def __init__(self, program, devices, **options):
                self._program = devices_module.pmapped(program, devices, **options)

            def lower(self, *arguments):
                found.append(self._program.lower(*arguments).as_text())
                return self

            def compile(self, **options):
                return None

        def ended(*_):
            limit = time.monotonic() + 60
            while len(found) < 2 and time.monotonic() < limit:  # another thread lowers the second
                time.sleep(0.01)
            raise Lowered

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Lowered):
            for module in (fit, validation):
                patch.setattr(module, "pmapped", Recorded)
            patch.setattr(fit, "begin", ended)
            PROGRAMS.clear()
            output = tmp_path_factory.mktemp("run")
            run.train(configure(place, output, **{"eval_steps": 2} | changes))
        PROGRAMS.clear()
        assert len(found) == 2
        return sorted(found, key=len)  # threads lower them in either order where a test shares programs

    return texts


@pytest.fixture(scope="module")
def plain(programs):
    return programs()


@pytest.fixture(scope="module")
def five(place):
    """A folder with five images and their captions."""
    folder = write_images(place / "five", count=5)
    for number in range(5):
        (folder / f"{number}.txt").write_text(f"{number * 'red '}car")
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"train_data_dir": "five"},
        {"train_data_dir": "five", "captions": "files"},
        {"learnable_property": "style"},
        {"train_data_dir": ["pictures", "pictures/0.png"], "repeats": [3, 40]},
        {"placeholder_token": "<other>", "initializer_token": "blue car"},
        {"max_train_steps": 3000, "train_batch_size": 1},
        {"max_train_steps": 3000, "max_eval_samples": 100},
        {"seed": 9, "learning_rate": 2e-3, "train_data_dir": "five"},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_another_concept_is_the_same_step_and_evaluation(place, plain, five, programs, changes):
    named = changes.get("train_data_dir", "pictures")
    folders = str(place / named) if isinstance(named, str) else [str(place / each) for each in named]
    assert programs(**changes | {"train_data_dir": folders}) == plain


def test_another_batch_size_is_another_step_and_evaluation(plain, programs):
    for one, other in zip(plain, programs(train_batch_size=2), strict=True):
        assert one != other


@pytest.fixture(scope="module")
def with_class(place):
    """Options of runs with three class images, and with five and another prompt for them."""
    folders = [write_images(place / f"class-{count}", count=count) for count in (3, 5)]
    prompts = [{}, {"class_prompt": "a <thing> car"}]
    return [{"class_data_dir": str(f), **prompt} for f, prompt in zip(folders, prompts, strict=True)]


def test_other_class_images_are_the_same_step(programs, with_class):
    one, other = (programs(**options) for options in with_class)
    assert one == other
