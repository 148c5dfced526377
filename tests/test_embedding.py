import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ti_flax.embedding import check_table, grown_table, initial_rows, splice
from ti_flax.errors import TokenError

TABLE = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
ROWS = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
TOKEN_IDS = np.array([[1, 10, 9, 11], [10, 10, 0, 2]], np.int32)


def test_splice_is_a_lookup_in_the_grown_table():
    expected = np.concatenate([TABLE, ROWS])[TOKEN_IDS]
    assert (splice(TABLE, ROWS, TOKEN_IDS, first_added_id=10) == expected).all()
    assert (grown_table(TABLE, ROWS, first_added_id=10)[TOKEN_IDS] == expected).all()


def test_rows_of_unused_table_places_are_replaced_not_appended():
    expected = np.concatenate([TABLE[:8], ROWS])
    assert (grown_table(TABLE, ROWS, first_added_id=8) == expected).all()
    ids = np.array([[7, 8, 9]], np.int32)
    assert (splice(TABLE, ROWS, ids, first_added_id=8) == expected[ids]).all()


def test_each_use_of_a_row_adds_to_its_gradient():
    gradient = jax.grad(lambda rows: splice(TABLE, rows, TOKEN_IDS, first_added_id=10).sum())(
        jnp.asarray(ROWS)
    )
    np.testing.assert_array_equal(gradient, [[3.0] * 4, [1.0] * 4])


def test_splice_keeps_the_tables_dtype():
    assert splice(TABLE.astype(jnp.bfloat16), ROWS, TOKEN_IDS, first_added_id=10).dtype == jnp.bfloat16


def test_rows_start_at_the_initializer():
    rows = initial_rows(TABLE.astype(np.float16), initializer_id=3, num_vectors=2)
    assert rows.dtype == np.float32 and rows.shape == (2, 4)
    np.testing.assert_array_equal(rows, TABLE[[3, 3]].astype(np.float16).astype(np.float32))


def test_a_tokenizer_larger_than_the_table_is_refused():
    check_table(TABLE, 10)
    with pytest.raises(TokenError, match="at most the text encoder's 10 tokens, found 11"):
        check_table(TABLE, 11)
