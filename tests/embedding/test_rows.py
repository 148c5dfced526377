import jax
import jax.numpy as jnp
import numpy as np
import pytest
from row_trees import ENCODER, SECOND_ENCODER, only, tree

from ti_flax.embedding.contents import BEHIND
from ti_flax.embedding.rows import (
    RowRules,
    add_rows,
    check_table,
    ema_update,
    embed_tokens,
    grown_table,
    joined,
    l2_to_init,
    mean_rows,
    put_behind,
    random_rows,
    rescale_norms,
    spread_rows,
)
from ti_flax.errors import TokenError

TABLE = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
ROWS = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
TOKEN_IDS = np.array([[1, 10, 9, 11], [10, 10, 0, 2]], np.int32)


def test_splice_is_a_lookup_in_the_grown_table():
    expected = np.concatenate([TABLE, ROWS])[TOKEN_IDS]
    assert (embed_tokens(TABLE, ROWS, TOKEN_IDS, first_added_id=10) == expected).all()
    assert (grown_table(TABLE, ROWS, first_added_id=10)[TOKEN_IDS] == expected).all()


def test_rows_of_unused_table_places_are_replaced_not_appended():
    expected = np.concatenate([TABLE[:8], ROWS])
    assert (grown_table(TABLE, ROWS, first_added_id=8) == expected).all()
    ids = np.array([[7, 8, 9]], np.int32)
    assert (embed_tokens(TABLE, ROWS, ids, first_added_id=8) == expected[ids]).all()


def test_each_use_of_a_row_adds_to_its_gradient():
    gradient = jax.grad(lambda rows: embed_tokens(TABLE, rows, TOKEN_IDS, first_added_id=10).sum())(
        jnp.asarray(ROWS)
    )
    np.testing.assert_array_equal(gradient, [[3.0] * 4, [1.0] * 4])


def test_what_goes_behind_takes_the_place_of_the_output_where_there_is_some():
    output = np.random.default_rng(2).normal(size=(*TOKEN_IDS.shape, 4)).astype(np.float32)
    rows = np.stack([ROWS[0], np.zeros(4, np.float32)])  # the second token has none
    expected = np.where((TOKEN_IDS == 10)[..., None], ROWS[0], output)
    assert (put_behind(output, rows, TOKEN_IDS, first_added_id=10) == expected).all()
    assert put_behind(output.astype(jnp.bfloat16), rows, TOKEN_IDS, first_added_id=10).dtype == jnp.bfloat16


def test_parts_with_nothing_behind_a_text_encoder_are_joined_with_zeros():
    behind = ENCODER + BEHIND
    found = joined([tree(ROWS), tree(ROWS[:1]) | {behind: TABLE[:1]}])
    assert (found[ENCODER] == ROWS[[0, 1, 0]]).all()
    assert (found[behind] == np.concatenate([np.zeros((2, 4)), TABLE[:1]])).all()
    added = add_rows(tree(TABLE), tree(ROWS), [tree(ROWS[:1]) | {behind: TABLE[:1]}])
    assert not added.trainable[behind].any() and added.trainable[ENCODER].tolist() == [True, True, False]


def test_splice_keeps_the_tables_dtype():
    assert embed_tokens(TABLE.astype(jnp.bfloat16), ROWS, TOKEN_IDS, first_added_id=10).dtype == jnp.bfloat16


def test_rows_start_at_the_initializer():
    rows = spread_rows(TABLE[[3]].astype(np.float16), 2)
    assert rows.dtype == np.float32 and rows.shape == (2, 4)
    np.testing.assert_array_equal(rows, TABLE[[3, 3]].astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(
    ("count", "places"),
    [(3, [0, 1, 2]), (4, [0, 0, 1, 2]), (7, [0, 0, 0, 1, 1, 2, 2]), (6, [0, 0, 1, 1, 2, 2])],
)
def test_vectors_are_shared_out_among_the_words(count, places):
    np.testing.assert_array_equal(spread_rows(TABLE[:3], count), TABLE[places])


def test_rows_start_at_the_mean():
    rows = mean_rows(TABLE[:3], 2)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, np.stack([TABLE[:3].mean(axis=0)] * 2), rtol=1e-6)


def test_random_rows_have_the_vocabularys_scale_and_depend_on_the_key():
    known = TABLE * np.float32([1, 10, 0.1, 1]) + np.float32([0, 5, 0, 0])
    rows = random_rows(known, 4000, jax.random.key(0))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows.mean(axis=0), known.mean(axis=0), atol=0.1 * known.std(axis=0).max())
    np.testing.assert_allclose(rows.std(axis=0), known.std(axis=0), rtol=0.05)
    again, other = (random_rows(known, 2, jax.random.key(seed)) for seed in (0, 1))
    assert again.tobytes() == random_rows(known, 2, jax.random.key(0)).tobytes() != other.tobytes()


def test_loaded_rows_stand_behind_those_that_learn_and_the_vocabulary_is_measured():
    added = add_rows(tree(TABLE), tree(ROWS), [tree(ROWS[:1] * 2), tree(ROWS * 3)])
    np.testing.assert_array_equal(only(added.start), np.concatenate([ROWS, ROWS[:1] * 2, ROWS * 3]))
    assert only(added.trainable).tolist() == [True, True, False, False, False]
    norms = np.sqrt((TABLE.astype(np.float64) ** 2).sum(axis=1))
    assert only(added.median_norm) == pytest.approx(np.median(norms), rel=1e-6)
    assert only(added.largest_norm) == pytest.approx(norms.max(), rel=1e-6)


TRAINABLE = tree(np.array([True, False, True]))
THREE = np.float32([[3, 4, 0, 0], [30, 40, 0, 0], [0.3, 0.4, 0, 0]])


def test_norms_are_kept_or_limited():
    kept = np.asarray(only(rescale_norms(RowRules(norm=tree(2.0)), tree(jnp.asarray(THREE)), TRAINABLE)))
    np.testing.assert_allclose(kept, [[1.2, 1.6, 0, 0], THREE[1], [1.2, 1.6, 0, 0]], rtol=1e-6)
    rule = RowRules(norm=tree(2.0), only_longer=True)
    limited = np.asarray(only(rescale_norms(rule, tree(jnp.asarray(THREE)), TRAINABLE)))
    np.testing.assert_allclose(limited, [[1.2, 1.6, 0, 0], THREE[1], THREE[2]], rtol=1e-6)
    assert limited[1:].tobytes() == THREE[1:].tobytes()
    zero = tree(jnp.zeros((3, 4)))
    assert not np.asarray(only(rescale_norms(RowRules(norm=tree(2.0)), zero, TRAINABLE))).any()
    # Its norm is beyond float32, and a row of zeros would pass for a finite one.
    endless = only(rescale_norms(RowRules(norm=tree(2.0)), tree(jnp.full((3, 2), 1e30)), TRAINABLE))
    assert np.isfinite(np.asarray(endless)).all(axis=1).tolist() == np.logical_not(only(TRAINABLE)).tolist()


def test_the_pull_and_its_gradient_are_the_formula():
    start = THREE + np.float32([[1, 0, -2, 0]])
    rules = RowRules(pull=0.3, start=tree(start))
    loss, gradient = l2_to_init(rules, tree(jnp.asarray(THREE)), TRAINABLE)
    assert float(loss) == pytest.approx(0.3 / 2 * (5 + 5))  # two rows learn, each 1 + 4 from its start
    expected = jax.grad(
        lambda rows: 0.15 * jnp.sum(jnp.square(rows - start) * jnp.asarray(only(TRAINABLE))[:, None])
    )(jnp.asarray(THREE))
    np.testing.assert_allclose(only(gradient), expected, rtol=1e-6)
    assert not np.asarray(only(gradient))[1].any()


@pytest.mark.parametrize("decay", [0.9999, 0.3])
def test_averages_are_those_of_diffusers(decay):
    torch = pytest.importorskip("torch")
    from diffusers.training_utils import EMAModel

    weight = torch.nn.Parameter(torch.tensor(THREE))
    reference = EMAModel([weight], decay=decay)
    mean = tree(jnp.asarray(THREE))
    for step in range(12):
        rows = np.random.default_rng(step).normal(size=THREE.shape).astype(np.float32)
        given = tree(jnp.asarray(rows))
        weight.data = torch.tensor(rows)
        reference.step([weight])
        mean = ema_update(RowRules(ema_decay=decay), mean, given, step=jnp.int32(step), trainable=TRAINABLE)
    expected = reference.shadow_params[0].numpy()
    learns = only(TRAINABLE)
    np.testing.assert_allclose(only(mean)[learns], expected[learns], rtol=1e-5, atol=1e-6)
    assert np.asarray(only(mean))[1].tobytes() == THREE[1].tobytes()


# Of two text encoders of differing widths: all rows learn of the first, two of the second.
TWO_TABLES = {
    ENCODER: TABLE,
    SECOND_ENCODER: np.random.default_rng(2).normal(size=(10, 6)).astype(np.float32),
}
TWO = {
    ENCODER: ROWS,
    SECOND_ENCODER: np.float32([[0, 3, 4, 0, 0, 0], [6, 8, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0.5]]),
}
TWO_LEARN = {ENCODER: np.array([True, True]), SECOND_ENCODER: np.array([True, False, True])}


def on_device(rows):
    return jax.tree.map(jnp.asarray, rows)


@pytest.mark.parametrize(
    ("learning", "learns"),
    [(None, [True, True]), ([ENCODER], [True, False]), ([SECOND_ENCODER], [False, True])],
)
def test_rows_of_two_encoders_stand_apart_and_those_of_one_may_stay(learning, learns):
    second = np.random.default_rng(3).normal(size=(2, 6)).astype(np.float32)
    learned = {ENCODER: ROWS, SECOND_ENCODER: second}
    loaded = [jax.tree.map(lambda rows: rows[:1] * 2, learned), jax.tree.map(lambda rows: rows * 3, learned)]
    added = add_rows(TWO_TABLES, learned, loaded, learning=learning)
    for encoder, its_rows, its_learn in zip(TWO_TABLES, (ROWS, second), learns, strict=True):
        behind = np.concatenate([its_rows[:1] * 2, its_rows * 3])
        np.testing.assert_array_equal(added.start[encoder], np.concatenate([its_rows, behind]))
        assert added.trainable[encoder].tolist() == [its_learn] * 2 + [False] * 3
        if its_learn:
            np.testing.assert_array_equal(added.loaded[encoder], behind)
        norms = np.linalg.norm(TWO_TABLES[encoder].astype(np.float64), axis=1)
        assert added.median_norm[encoder] == pytest.approx(np.median(norms), rel=1e-6)
        assert added.largest_norm[encoder] == pytest.approx(norms.max(), rel=1e-6)
    assert added.median_norm[ENCODER] != pytest.approx(added.median_norm[SECOND_ENCODER], rel=0.01)
    assert added.widths == {ENCODER: 4, SECOND_ENCODER: 6}


def test_every_encoder_has_its_norm():
    rules = RowRules(norm={ENCODER: 2.0, SECOND_ENCODER: 0.25})
    kept = jax.device_get(rescale_norms(rules, on_device(TWO), TWO_LEARN))
    np.testing.assert_allclose(np.linalg.norm(kept[ENCODER], axis=1), [2, 2], rtol=1e-6)
    expected = np.float32([[0, 0.15, 0.2, 0, 0, 0], [6, 8, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0.25]])
    np.testing.assert_allclose(kept[SECOND_ENCODER], expected, rtol=1e-6)
    assert kept[SECOND_ENCODER][1].tobytes() == TWO[SECOND_ENCODER][1].tobytes()
    limit = RowRules(norm={ENCODER: 99.0, SECOND_ENCODER: 1.0}, only_longer=True)
    limited = jax.device_get(rescale_norms(limit, on_device(TWO), TWO_LEARN))
    assert limited[ENCODER].tobytes() == ROWS.tobytes()
    np.testing.assert_allclose(np.linalg.norm(limited[SECOND_ENCODER], axis=1), [1, 10, 0.5], rtol=1e-6)


def test_the_pull_is_over_both_encoders():
    start = {ENCODER: ROWS - 1, SECOND_ENCODER: TWO[SECOND_ENCODER] + 2}
    rules = RowRules(pull=0.3, start=start)
    loss, gradient = l2_to_init(rules, on_device(TWO), TWO_LEARN)
    # Two rows of 4 numbers are 1 away each, and two that learn of 6 numbers 2 each.
    assert float(loss) == pytest.approx(0.3 / 2 * (2 * 4 * 1 + 2 * 6 * 4), rel=1e-6)
    np.testing.assert_allclose(gradient[ENCODER], np.full((2, 4), 0.3), rtol=1e-6)
    np.testing.assert_allclose(
        gradient[SECOND_ENCODER], np.float32([[-0.6] * 6, [0] * 6, [-0.6] * 6]), rtol=1e-6
    )


def test_every_encoder_has_its_average():
    rules, mean = RowRules(ema_decay=0.9), on_device(TWO)
    moved = jax.tree.map(lambda rows: rows + 1, TWO)
    first = jax.device_get(ema_update(rules, mean, on_device(moved), step=jnp.int32(0), trainable=TWO_LEARN))
    later = jax.device_get(ema_update(rules, mean, on_device(moved), step=jnp.int32(5), trainable=TWO_LEARN))
    for encoder, learns in TWO_LEARN.items():
        assert first[encoder][learns].tobytes() == moved[encoder][learns].tobytes()
        np.testing.assert_allclose(
            later[encoder][learns], TWO[encoder][learns] + 0.6, rtol=1e-5
        )  # 1 - 6 / 15
        for mean in (first, later):
            assert mean[encoder][~learns].tobytes() == TWO[encoder][~learns].tobytes()


def test_a_tokenizer_larger_than_the_table_is_refused():
    check_table(TABLE, 10)
    with pytest.raises(TokenError, match="at most the text encoder's 10 tokens, found 11"):
        check_table(TABLE, 11)
