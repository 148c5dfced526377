"""The step on tiny models: what moves, what does not, and what the bits depend on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chunks import chunk_arguments, chunk_of, draw_sample, fetched, sender_of
from row_trees import bits, only, tree
from tiny_step import CAPACITY, make_frozen, make_step_config, rates, start_rows

from ti_flax.data.dataset import Dataset, one_shape, padded
from ti_flax.embedding.rows import RowRules
from ti_flax.training import optimizer as optim
from ti_flax.training.batches import bucket_of_step, image_index
from ti_flax.training.devices import Slots, unreplicate
from ti_flax.training.state import init_state, result_rows
from ti_flax.training.streaming import shapes_of


def draw_one(config, seed, examples, *, step=0, position=0):
    places = {"step": jnp.int32(step), "position": jnp.int32(position)}
    key = jax.random.key(seed)
    given = padded(examples)
    return draw_sample(config.draw_rules, key, given.buckets[0], given.prompts, **places)


# Compiled updates by step, shapes and devices, for this file's tests.
_PROGRAMS = {}


@pytest.fixture(scope="module", autouse=True)
def let_go_of_programs():
    yield
    _PROGRAMS.clear()


def run(config, frozen, chunks, *, devices=1, state=None):
    """Runs chunks of the given lengths and returns the last state and all losses, on the host."""
    places = jax.devices()[:devices]
    state = state or init_state(config, start_rows(config))
    step = int(state.step)
    sender = sender_of(config, frozen["examples"], places, CAPACITY)
    given = chunk_arguments(config, frozen, state, rates(0), 1, places)
    shapes = shapes_of(frozen["examples"])
    if (id(config), shapes, devices) not in _PROGRAMS:
        program = chunk_of(config, CAPACITY, frozen, places).lower(*given).compile()
        _PROGRAMS[id(config), shapes, devices] = program, config  # which keeps its id its own
    program, _ = _PROGRAMS[id(config), shapes, devices]
    state, *arguments = given[:3]
    losses = []
    for steps in chunks:
        given = Slots(1, places).place((rates(step)[None], np.full(1, steps, np.int32)))
        window = sender.window([step], steps)
        with jax.transfer_guard("disallow"):
            state, measures = program(state, *arguments, *given, window)
        step += steps
        losses.append(fetched(measures, places)["loss"][:steps])
    return fetched(state, places), np.concatenate(losses), unreplicate(arguments[0])


@pytest.fixture(scope="module")
def one_device():
    config = make_step_config()
    frozen = make_frozen(config)
    return config, frozen, run(config, frozen, [6])


@pytest.mark.parametrize("devices", [2, pytest.param(4, marks=pytest.mark.slow), 8])
def test_device_count_changes_only_rounding(one_device, devices):
    config, frozen, (expected, expected_losses, _) = one_device
    split = dataclasses.replace(config, batch_size=8 // devices, device_count=devices)
    state, losses, _ = run(split, frozen, [6], devices=devices)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    np.testing.assert_allclose(only(state.rows), only(expected.rows), rtol=1e-4, atol=1e-6)


def test_accumulation_changes_only_rounding(one_device):
    config, frozen, (expected, expected_losses, _) = one_device
    split = dataclasses.replace(config, batch_size=2, accumulation=4)
    state, losses, _ = run(split, frozen, [6])
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    np.testing.assert_allclose(only(state.rows), only(expected.rows), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chunks", [[1, 5], [2, 2, 2], [1] * 6])
def test_chunk_length_does_not_change_a_bit(one_device, chunks):
    config, frozen, (expected, expected_losses, _) = one_device
    state, losses, _ = run(config, frozen, chunks)
    assert bits(state.rows) == bits(expected.rows)
    assert losses.tobytes() == expected_losses.tobytes()


def test_going_on_from_a_saved_state_gives_the_same_bits(one_device):
    config, frozen, (expected, _, _) = one_device
    half, _, _ = run(config, frozen, [3])
    assert int(half.step) == 3
    state, _, _ = run(config, frozen, [3], state=half)
    for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert leaf.tobytes() == wanted.tobytes()


def test_frozen_things_keep_their_bits():
    config = make_step_config(trainable=(True, False))
    frozen = make_frozen(config)
    state, losses, frozen_after = run(config, frozen, [4])
    start, rows = only(start_rows(config)).astype(np.float32), only(state.rows)
    assert np.isfinite(losses).all()
    assert rows[1].tobytes() == start[1].tobytes()
    assert (rows[0] != start[0]).all()
    frozen = {name: part for name, part in frozen.items() if name != "examples"}
    kept = {name: frozen_after[name] for name in frozen}
    for leaf, wanted in zip(jax.tree.leaves(kept), jax.tree.leaves(frozen), strict=True):
        assert leaf.tobytes() == np.asarray(wanted).tobytes()
    assert {leaf.shape for leaf in jax.tree.leaves(state.opt_state)} == {(), (1, 32)}


def test_seed_and_position_matter_and_every_epoch_shows_every_image(one_device):
    config, frozen, _ = one_device
    batches = [
        draw_one(config, seed, frozen["examples"], step=step, position=position)
        for seed, step, position in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    noises = {np.asarray(batch.noise).tobytes() for batch in batches}
    assert len(noises) == 4
    assert not np.allclose(batches[0].noise, batches[0].latents)
    shown = [int(image_index(jax.random.key(3), jnp.int32(i), 5)) for i in range(20)]
    epochs = [shown[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_posterior_and_noise_are_drawn_apart(one_device):
    config, frozen, _ = one_device
    posteriors = np.zeros_like(frozen["examples"].buckets[0].posteriors)
    batch = draw_one(config, 0, one_shape(posteriors, frozen["examples"].token_ids[0]))
    sampled = batch.latents / config.model.vae.config.scaling_factor
    correlation = np.corrcoef(np.ravel(sampled), np.ravel(batch.noise))[0, 1]
    assert abs(correlation) < 0.5
    assert 0.5 < sampled.std() < 1.5 and 0.5 < batch.noise.std() < 1.5


def test_flip_p_chooses_between_image_and_mirror_image(one_device):
    config, frozen, _ = one_device
    mirrored = np.zeros_like(frozen["examples"].buckets[0].posteriors)
    mirrored[..., 4:] = -30.0
    mirrored[:, 1, ..., :4] = 1.0
    examples = one_shape(mirrored, frozen["examples"].token_ids[0])
    scale = config.model.vae.config.scaling_factor
    for flip_p, expected in [(0.0, {0.0}), (1.0, {1.0}), (0.5, {0.0, 1.0})]:
        flipped = dataclasses.replace(config, flip_p=flip_p)
        drawn = [draw_one(flipped, 0, examples, step=step) for step in range(12)]
        assert {round(float(batch.latents.mean()) / scale, 2) for batch in drawn} == expected


def test_gradient_checkpointing_changes_only_rounding(one_device):
    config, frozen, (expected, _, _) = one_device
    model = dataclasses.replace(config.model, unet=config.model.unet.clone(gradient_checkpointing=True))
    state, _, _ = run(dataclasses.replace(config, model=model), frozen, [6])
    np.testing.assert_allclose(only(state.rows), only(expected.rows), rtol=1e-4, atol=1e-6)


def test_one_all_reduce_and_no_other_collective(one_device):
    config, frozen, _ = one_device
    places = jax.devices()[:2]
    split = dataclasses.replace(config, batch_size=4, device_count=2)
    state = init_state(split, start_rows(split))
    arguments = chunk_arguments(split, frozen, state, rates(0), 1, places)
    text = chunk_of(split, CAPACITY, frozen, places).lower(*arguments).compile().as_text()
    # One line of the program for the loss and the gradient, combined or not.
    assert 1 <= text.count(" all-reduce(") <= 2
    assert "all-gather" not in text and "all-to-all" not in text


def in_buckets(frozen):
    """The first image in a shape of its own, and with it weights; the others shown twice as often."""
    [bucket], token_ids = frozen["examples"][:2]
    wide = np.concatenate([bucket.posteriors[:1]] * 2, axis=3)
    first = bucket._replace(
        posteriors=wide,
        prompts=bucket.prompts[:1],
        sample_indices=np.array([0], np.int32),
        loss_weights=np.linspace(0, 2, 64, dtype=np.float32).reshape(1, 2, 4, 8),
    )
    rest = bucket._replace(
        posteriors=bucket.posteriors[1:],
        prompts=bucket.prompts[1:],
        sample_indices=np.array([0, 1, 0, 1], np.int32),
    )
    return frozen | {"examples": Dataset((first, rest), token_ids)}


def test_every_bucket_has_its_share_of_the_updates(one_device):
    _, frozen, _ = one_device
    buckets = padded(in_buckets(frozen)["examples"]).buckets
    seen = [bucket_of_step(jax.random.key(0), jnp.int32(step), buckets) for step in range(20)]
    chosen = [int(bucket) for bucket, _ in seen]
    assert [sum(chosen[i : i + 5]) for i in range(0, 20, 5)] == [4, 4, 4, 4]
    assert len({tuple(chosen[i : i + 5]) for i in range(0, 20, 5)}) > 1
    # The rounds of a stretch are the next ones of each bucket, each once.
    for stretch in (seen[i : i + 5] for i in range(0, 20, 5)):
        for bucket, count in ((0, 1), (1, 4)):
            rounds = sorted(int(round) for each, round in stretch if each == bucket)
            first = seen.index(stretch[0]) // 5 * count
            assert rounds == list(range(first, first + count))


def test_buckets_give_the_same_rows_on_every_number_of_devices(one_device):
    config, frozen, _ = one_device
    frozen = in_buckets(frozen)
    expected, losses, _ = run(config, frozen, [4, 2])
    split = dataclasses.replace(config, batch_size=1, device_count=8)
    state, split_losses, _ = run(split, frozen, [6], devices=8)
    np.testing.assert_allclose(split_losses, losses, rtol=1e-5)
    np.testing.assert_allclose(only(state.rows), only(expected.rows), rtol=1e-4, atol=1e-7)


def test_weights_of_one_change_nothing_and_others_weigh_the_error(one_device):
    config, frozen, (expected, losses, _) = one_device
    [bucket], token_ids = frozen["examples"][:2]

    def weighted(weights):
        changed = frozen | {"examples": Dataset((bucket._replace(loss_weights=weights),), token_ids)}
        return run(config, changed, [6])

    ones = np.ones((3, 2, 4, 4), np.float32)
    state, ones_losses, _ = weighted(ones)
    np.testing.assert_allclose(ones_losses, losses, rtol=1e-6)
    np.testing.assert_allclose(only(state.rows), only(expected.rows), rtol=1e-4, atol=1e-7)
    _, doubled, _ = weighted(2 * ones)
    np.testing.assert_allclose(doubled[0], 2 * losses[0], rtol=1e-6)


def row_rules(config, **changes):
    return dataclasses.replace(config, rules=RowRules(**changes))


def test_the_pull_is_part_of_the_loss_and_of_the_gradient():
    """One plain gradient step with and without the pull: they differ by its formula."""
    sgd = optim.mask_rows(optim.make_optimizer("sgd", lambda step: 1.0), tree(np.array([True, True])))
    config = make_step_config(optimizer=lambda rate, clip: sgd)
    frozen, anchor = make_frozen(config), np.full((2, 32), 0.5, np.float32)
    plain, loss, _ = run(config, frozen, [1])
    pulled, pulled_loss, _ = run(row_rules(config, pull=0.1, start=tree(anchor)), frozen, [1])
    offset = only(start_rows(config)) - anchor
    np.testing.assert_allclose(pulled_loss - loss, 0.05 * (offset**2).sum(), rtol=1e-5)
    np.testing.assert_allclose(only(pulled.rows), only(plain.rows) - 0.1 * offset, atol=1e-6)


def test_norms_are_held_once_an_update_and_averages_follow(one_device):
    config, frozen, (plain, _, _) = one_device
    split = dataclasses.replace(
        row_rules(config, norm=tree(0.5), ema_decay=0.9), batch_size=4, accumulation=2
    )
    first, _, _ = run(split, frozen, [1])
    np.testing.assert_allclose(np.linalg.norm(only(first.rows), axis=1), 0.5, rtol=1e-6)
    assert bits(first.mean_rows) == bits(first.rows)
    # The learning rate of the first update is 0, so it rescales the start and does nothing else.
    start = only(start_rows(config))
    expected = 0.5 * start / np.linalg.norm(start, axis=1, keepdims=True)
    np.testing.assert_allclose(only(first.rows), expected, rtol=1e-5)
    whole, _, _ = run(split, frozen, [6])
    half, _, _ = run(split, frozen, [3])
    again, _, _ = run(split, frozen, [3], state=half)
    assert bits(again.mean_rows) == bits(whole.mean_rows) != bits(whole.rows)
    assert bits(result_rows(split, whole)) == bits(whole.mean_rows)
    assert plain.mean_rows is None and len(jax.tree.leaves(plain)) == len(jax.tree.leaves(whole)) - 1
    assert bits(result_rows(config, plain)) == bits(plain.rows)


def test_an_average_changes_the_rows_by_rounding_alone(one_device):
    config, frozen, (plain, losses, _) = one_device
    averaged, its_losses, _ = run(row_rules(config, ema_decay=0.9), frozen, [6])
    np.testing.assert_allclose(only(averaged.rows), only(plain.rows), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(its_losses, losses, rtol=1e-5)
