"""What devices are sent: the draws of each sample, for any calls, devices, shapes, masks and class images."""

import dataclasses
import itertools
import operator

import jax
import numpy as np
import pytest
from chunks import KEY, chunk_arguments, chunk_of, sender_of
from tiny_step import VOCABULARY, make_frozen, make_step_config, rates, start_rows

from ti_flax.data.dataset import Bucket, Dataset, padded, with_class_images
from ti_flax.data.latent_cache import LatentCache
from ti_flax.data.posteriors import PosteriorFiles
from ti_flax.monitoring.validation import eval_set, looked_at
from ti_flax.training import streaming
from ti_flax.training.batches import BUCKETS, CLASS_IMAGES, bucket_of_step, choose, example_of
from ti_flax.training.devices import Slots, of_slot, unreplicate
from ti_flax.training.loop import Hook, Seat, run_steps
from ti_flax.training.state import init_state
from ti_flax.training.streaming import Feed, Sender, examples_in, shapes_of, window_capacity
from ti_flax.training.timesteps import TimestepRules

CAPACITY, STEPS = 4, 6
RNG = np.random.default_rng(5)
# Compiled updates by configuration, devices and shapes, for this file's tests.
_PROGRAMS = {}


@pytest.fixture(scope="module", autouse=True)
def let_go_of_programs():
    yield
    _PROGRAMS.clear()


def random_bucket(images, height, width, *, masked=False, repeats=1, sides=2):
    posteriors = RNG.normal(size=(images, sides, height, width, 8)).astype(np.float32)
    weights = RNG.uniform(0.5, 1.5, (images, 2, height, width)).astype(np.float32) if masked else None
    places = np.repeat(np.arange(images, dtype=np.int32), repeats)
    return Bucket(posteriors, (np.arange(images) % 2).astype(np.int32), places, weights)


def token_ids(groups=2):
    found = RNG.integers(0, VOCABULARY, (groups, 3, 77)).astype(np.int32)
    found[..., 5:7] = [VOCABULARY, VOCABULARY + 1]
    return found


PLAIN = Dataset((random_bucket(5, 4, 4),), token_ids())
EXAMPLES = {
    "one shape": PLAIN,
    "masks": Dataset((random_bucket(5, 4, 4, masked=True),), token_ids()),
    "class images": with_class_images(
        PLAIN, [random_bucket(3, 4, 4).posteriors], token_ids(1).reshape(3, 77)
    ),
    "shapes with masks": Dataset(
        (random_bucket(3, 4, 4, masked=True), random_bucket(4, 8, 4, repeats=2), random_bucket(2, 4, 6)),
        token_ids(),
    ),
}
EXAMPLES["shapes, masks and class images"] = with_class_images(
    EXAMPLES["shapes with masks"],
    [
        random_bucket(3, *bucket.posteriors.shape[2:4]).posteriors
        for bucket in EXAMPLES["shapes with masks"].buckets
    ],
    token_ids(1).reshape(3, 77),
)


class Losses(Hook):
    def __init__(self):
        self.losses, self.steps = [], []

    def on_metrics(self, chunk):
        self.losses.append(chunk.loss)
        self.steps.append(len(chunk.loss))


class Every(Hook):
    def __init__(self, every):
        self.every = every


def run(config, examples, *, devices=1, steps_per_call=3, state=None, until=STEPS, hooks=(), sender=None):
    """The last state on the host, and the loss of every update."""
    places = jax.devices()[:devices]
    frozen = make_frozen(config) | {"examples": examples}
    state = state or init_state(config, start_rows(config))
    sender = sender or sender_of(config, examples, places, CAPACITY)
    capacity = sender.capacity
    window = sender.empty()
    given = chunk_arguments(config, frozen, state, rates(0)[:capacity], 1, places, window=window)
    shapes = config, devices, sender.shapes, capacity
    if shapes not in _PROGRAMS:
        _PROGRAMS[shapes] = chunk_of(config, capacity, frozen, places).lower(*given).compile()
    losses = Losses()
    seat = Seat(until, lambda step: rates(step)[:capacity], [losses, *hooks], int(state.step))
    last = run_steps(
        _PROGRAMS[shapes],
        given[0],
        given[1:3],
        seats=[seat],
        slots=Slots(1, places),
        steps_per_call=steps_per_call,
        sender=sender,
    )
    return of_slot(last, 0), np.concatenate(losses.losses)


def same_bits(one, other):
    (state, losses), (others, its_losses) = one, other
    assert losses.tobytes() == its_losses.tobytes()
    for leaf, its in zip(jax.tree.leaves(state), jax.tree.leaves(others), strict=True):
        assert np.asarray(leaf).tobytes() == np.asarray(its).tobytes()


@pytest.fixture(scope="module")
def config():
    return make_step_config(batch_size=2, accumulation=2)


def kinds_of(examples, key):
    """Of training and of class images: the key, buckets and prompts that samples are drawn by."""
    kinds = {"training": (key, examples.buckets, examples.prompts)}
    if examples.class_buckets:
        of_class = (examples.class_buckets, examples.class_prompts)
        kinds["of_class"] = (jax.random.fold_in(key, CLASS_IMAGES), *of_class)
    return kinds


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_windows_show_the_draws_of_each_sample(config, name):
    """On each of two devices, against samples that are chosen one by one out of all images."""
    config = dataclasses.replace(config, device_count=2)
    given, key = padded(EXAMPLES[name]), jax.random.wrap_key_data(KEY)
    shapes = shapes_of(EXAMPLES[name])
    windows = Feed(config, EXAMPLES[name], KEY, shapes, capacity=CAPACITY).windows(3, CAPACITY - 1, (0, 1))
    for update in range(CAPACITY - 1):
        step, owner, round = 3 + update, 0, None
        if len(given.buckets) > 1:
            owner, round = bucket_of_step(jax.random.fold_in(key, BUCKETS), step, given.buckets)
        for (device, window), (kind, drawn_by) in itertools.product(
            enumerate(windows), kinds_of(given, key).items()
        ):
            assert window.owner[update] == owner
            shape = (shapes.buckets if kind == "training" else shapes.class_buckets)[owner]
            for micro, place in itertools.product(range(2), range(2)):
                here = (update, micro, slice(place, place + 1))
                shown = jax.tree.map(operator.itemgetter(here), getattr(window, kind))
                where = {"step": step, "round": round, "position": (micro * 2 + device) * 2 + place}
                assert_shows(shown, shape, config.draw_rules, drawn_by, owner, where)


def assert_shows(shown, shape, rules, drawn_by, owner, where):
    key, buckets, prompts = drawn_by
    choice = choose(rules, key, buckets[owner], prompts, **where)
    places = {"image": choice.image, "mirrored": choice.mirrored, "prompt": choice.prompt}
    expected, found = example_of(buckets[owner], prompts, **places), examples_in(shown, shape)
    np.testing.assert_array_equal(found.posterior[0], expected.posterior)
    np.testing.assert_array_equal(found.token_ids[0], expected.token_ids)
    if expected.loss_weights is not None:
        np.testing.assert_array_equal(found.loss_weights[0], expected.loss_weights)
    assert shown.timesteps[0] == choice.timestep and (shown.keys[0] == choice.keys).all()


@pytest.mark.parametrize("flip_p", [0.0, 1.0])
def test_where_one_side_is_drawn_the_other_is_not_needed(config, flip_p):
    config = dataclasses.replace(config, flip_p=flip_p)
    both = EXAMPLES["masks"]
    side = [int(flip_p)]
    bucket = both.buckets[0]
    alone = both._replace(buckets=(bucket._replace(posteriors=bucket.posteriors[:, side]),))
    same_bits(run(config, alone), run(config, both))


def test_calls_and_a_resumption_change_nothing(config):
    examples = EXAMPLES["shapes with masks"]
    expected = run(config, examples)
    for steps, hooks in ((1, []), (4, [Every(2), Every(3)]), (None, [])):
        same_bits(run(config, examples, steps_per_call=steps, hooks=hooks), expected)
    half, first = run(config, examples, until=3)
    last, rest = run(config, examples, state=half)
    same_bits((last, np.concatenate([first, rest])), expected)


def test_a_window_is_as_long_as_its_memory_allows_and_never_longer(config, monkeypatch):
    examples = EXAMPLES["class images"]
    shapes, expected = shapes_of(examples), run(config, examples)
    of_update = 4 * 4 * (2 * 4 * 4 * 8)  # samples, bytes, numbers of a picture and a class image
    for room, capacity in ((3 * of_update - 1, 2), (1, 1), (10**9, CAPACITY)):
        monkeypatch.setattr(streaming, "WINDOW_BYTES", room)
        assert window_capacity(config, shapes, CAPACITY) == capacity
        sender = sender_of(config, examples, jax.devices()[:1], capacity)
        window = sender.window([0], 1)
        assert [leaf.shape for leaf in jax.tree.leaves(window)] == [
            leaf.shape for leaf in jax.tree.leaves(sender.empty())
        ]
        pictures = window.training.pictures.nbytes + window.of_class.pictures.nbytes
        assert pictures <= max(room, of_update)
        _, losses = run(config, examples, steps_per_call=capacity, sender=sender)
        np.testing.assert_allclose(losses, expected[1], rtol=1e-5)


class Reads(np.ndarray):
    """An array that tells which pictures are asked for."""

    def __getitem__(self, places):
        if isinstance(places, tuple) and len(places) == 2:
            self.asked.append(len(places[0]))
        return super().__getitem__(places)


def test_exactly_what_the_updates_need_is_read_and_while_the_devices_work(config):
    bucket = PLAIN.buckets[0]
    posteriors = bucket.posteriors.view(Reads)
    posteriors.asked = []
    examples = PLAIN._replace(buckets=(bucket._replace(posteriors=posteriors),))
    events = []

    class Watched(Sender):
        def prepare(self, steps, updates):
            events.append(("prepare", *steps, updates))
            super().prepare(steps, updates)

        def window(self, steps, updates):
            events.append(("window", *steps, updates))
            return super().window(steps, updates)

    class Metrics(Hook):
        def on_metrics(self, chunk):
            events.append(("done", chunk.last_step))

    sender = sender_of(config, examples, jax.devices()[:1], CAPACITY, kind=Watched)
    run(config, examples, steps_per_call=2, hooks=[Metrics()], sender=sender)
    assert posteriors.asked == [2 * 4] * 3  # updates of a call, samples of an update
    assert events == [
        *(("window", 0, 2), ("prepare", 2, 2), ("done", 2)),
        *(("window", 2, 2), ("prepare", 4, 2), ("done", 4)),
        *(("window", 4, 2), ("done", 6)),
    ]


def test_pictures_in_files_are_read_from_there(config, tmp_path):
    bucket = PLAIN.buckets[0]
    cache, keys = LatentCache(tmp_path, 2**30), [f"{number:064x}" for number in range(10)]
    for key, posterior in zip(keys, bucket.posteriors.reshape(10, 4, 4, 8)):
        cache.write(key, posterior)
    files = PosteriorFiles(cache, keys, bucket.posteriors.shape)
    examples = PLAIN._replace(buckets=(bucket._replace(posteriors=files),))
    same_bits(run(config, examples), run(config, PLAIN))


def test_the_host_makes_the_choices_of_the_device(config):
    """Of 100,000 images: every one is told apart by its number."""
    images, samples = 100_000, config.global_batch
    posteriors = np.arange(2 * images, dtype=np.float32).reshape(images, 2, 1, 1, 1)
    bucket = Bucket(posteriors, np.zeros(images, np.int32), np.arange(images, dtype=np.int32))
    examples = Dataset((bucket,), token_ids(1))
    sender = sender_of(config, examples, jax.devices()[:1], 500)
    shown = []
    for step in range(0, 3000, 500):
        window = unreplicate(sender.window([step], 500))
        shown.append(window.training.pictures.ravel())
    shown = np.concatenate(shown)
    assert len(np.unique(shown // 2)) == 3000 * samples  # an epoch shows no image twice
    assert 0.4 < np.mean(shown % 2) < 0.6


def test_a_window_is_that_of_the_updates_that_are_asked_for(config):
    def sender():
        return sender_of(config, PLAIN, jax.devices()[:1], CAPACITY)

    def shown(made, step, updates):
        return jax.tree.map(lambda each: each[0, :updates], unreplicate(made.window([step], updates)))

    for prepared, asked in (((0, 2), (2, 1)), ((0, 1), (0, 3)), ((1, 2), (0, 2)), ((1, 3), (1, 2))):
        made = sender()
        made.prepare([prepared[0]], prepared[1])
        found, expected = shown(made, *asked), shown(sender(), *asked)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(one, other)


def test_an_evaluation_needs_the_images_alone_that_it_looks_at():
    buckets = [random_bucket(9, 4, 4, masked=True), random_bucket(7, 4, 6, sides=1)]
    chosen = eval_set(
        buckets, TimestepRules(first=0, end=1000), flip_p=0.0, samples=4, batch_size=1, devices=1
    )
    found, same = looked_at(buckets, chosen)
    assert sum(len(bucket.posteriors) for bucket in found) <= 6 and same.weights is chosen.weights
    assert max(places.image.max() for places in chosen.places) > 2
    for bucket, old, few, new in zip(buckets, chosen.places, found, same.places, strict=True):
        assert few.posteriors.shape[1] == bucket.posteriors.shape[1]
        np.testing.assert_array_equal(few.posteriors[new.image], bucket.posteriors[old.image])
        np.testing.assert_array_equal(few.prompts[new.image], bucket.prompts[old.image])
        if bucket.loss_weights is not None:
            np.testing.assert_array_equal(few.loss_weights[new.image], bucket.loss_weights[old.image])
        assert new.number is old.number and new.timestep is old.timestep
