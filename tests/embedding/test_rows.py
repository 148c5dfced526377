import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ti_flax.embedding.rows import (
    RowRules,
    add_rows,
    check_table,
    ema_update,
    embed_tokens,
    grown_table,
    l2_to_init,
    mean_rows,
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
    added = add_rows(TABLE, ROWS, [ROWS[:1] * 2, ROWS * 3])
    np.testing.assert_array_equal(added.start, np.concatenate([ROWS, ROWS[:1] * 2, ROWS * 3]))
    assert added.trainable.tolist() == [True, True, False, False, False]
    norms = np.sqrt((TABLE.astype(np.float64) ** 2).sum(axis=1))
    assert added.median_norm == pytest.approx(np.median(norms), rel=1e-6)
    assert added.largest_norm == pytest.approx(norms.max(), rel=1e-6)


TRAINABLE = np.array([True, False, True])
THREE = np.float32([[3, 4, 0, 0], [30, 40, 0, 0], [0.3, 0.4, 0, 0]])


def test_norms_are_kept_or_limited():
    kept = np.asarray(rescale_norms(RowRules(norm=2.0), jnp.asarray(THREE), TRAINABLE))
    np.testing.assert_allclose(kept, [[1.2, 1.6, 0, 0], THREE[1], [1.2, 1.6, 0, 0]], rtol=1e-6)
    rule = RowRules(norm=2.0, only_longer=True)
    limited = np.asarray(rescale_norms(rule, jnp.asarray(THREE), TRAINABLE))
    np.testing.assert_allclose(limited, [[1.2, 1.6, 0, 0], THREE[1], THREE[2]], rtol=1e-6)
    assert limited[1:].tobytes() == THREE[1:].tobytes()
    zero = jnp.zeros((3, 4))
    assert not np.asarray(rescale_norms(RowRules(norm=2.0), zero, TRAINABLE)).any()


def test_the_pull_and_its_gradient_are_the_formula():
    start = THREE + np.float32([[1, 0, -2, 0]])
    rules = RowRules(pull=0.3, start=start)
    loss, gradient = l2_to_init(rules, jnp.asarray(THREE), TRAINABLE)
    assert float(loss) == pytest.approx(0.3 / 2 * (5 + 5))  # two rows learn, each 1 + 4 from its start
    expected = jax.grad(
        lambda rows: 0.15 * jnp.sum(jnp.square(rows - start) * jnp.asarray(TRAINABLE)[:, None])
    )(jnp.asarray(THREE))
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    assert not np.asarray(gradient)[1].any()


@pytest.mark.parametrize("decay", [0.9999, 0.3])
def test_averages_are_those_of_diffusers(decay):
    torch = pytest.importorskip("torch")
    from diffusers.training_utils import EMAModel

    weight = torch.nn.Parameter(torch.tensor(THREE))
    reference = EMAModel([weight], decay=decay)
    mean = jnp.asarray(THREE)
    for step in range(12):
        rows = np.random.default_rng(step).normal(size=THREE.shape).astype(np.float32)
        weight.data = torch.tensor(rows)
        reference.step([weight])
        mean = ema_update(
            RowRules(ema_decay=decay), mean, jnp.asarray(rows), step=jnp.int32(step), trainable=TRAINABLE
        )
    expected = reference.shadow_params[0].numpy()
    np.testing.assert_allclose(mean[TRAINABLE], expected[TRAINABLE], rtol=1e-5, atol=1e-6)
    assert np.asarray(mean)[1].tobytes() == THREE[1].tobytes()


def test_a_tokenizer_larger_than_the_table_is_refused():
    check_table(TABLE, 10)
    with pytest.raises(TokenError, match="at most the text encoder's 10 tokens, found 11"):
        check_table(TABLE, 11)
