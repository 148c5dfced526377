import dataclasses

import jax
import numpy as np
import pytest
from made_checkpoint import FINGERPRINT, ROWS, make_checkpoint, make_optimizer
from row_trees import ENCODER, SECOND_ENCODER, bits, only, tree

from ti_flax.errors import CheckpointError
from ti_flax.files.atomic_folders import atomic_folder
from ti_flax.training import optimizer as optim
from ti_flax.training.checkpoint import (
    check_same_run,
    checkpoint_steps,
    evaluated_before,
    find_checkpoint,
    load_checkpoint,
    load_newest,
    optimizer_leaves,
    restore_mean,
    restore_optimizer,
    save_checkpoint,
    tree_digest,
)

DOUBLED = tree(only(ROWS) * 2)


def test_everything_comes_back_with_its_bits(tmp_path):
    saved = make_checkpoint()
    folder = save_checkpoint(tmp_path, saved)
    assert folder.name == "checkpoint-5"
    loaded = load_checkpoint(folder)
    assert bits(loaded.rows) == bits(saved.rows)
    assert (loaded.step, loaded.config, loaded.fingerprint) == (5, saved.config, FINGERPRINT)
    assert loaded.optimizer.keys() == saved.optimizer.keys()
    for path, leaf in saved.optimizer.items():
        assert loaded.optimizer[path].dtype == leaf.dtype
        assert loaded.optimizer[path].tobytes() == leaf.tobytes()
    state = restore_optimizer(make_optimizer().init(ROWS), loaded.optimizer, folder)
    assert optimizer_leaves(state).keys() == saved.optimizer.keys()


def test_an_average_comes_back_just_where_one_is_kept(tmp_path):
    (tmp_path / "b").mkdir()
    without = load_checkpoint(save_checkpoint(tmp_path, make_checkpoint()))
    saved = dataclasses.replace(make_checkpoint(), mean_rows=DOUBLED)
    folder = save_checkpoint(tmp_path / "b", saved)
    kept = load_checkpoint(folder)
    assert bits(restore_mean(ROWS, kept, folder)) == bits(DOUBLED)
    assert restore_mean(None, without, folder) is None
    for fresh, other in ((None, kept), (ROWS, without)):
        with pytest.raises(
            CheckpointError, match="Resume with the use_ema that the checkpoint was made with"
        ):
            restore_mean(fresh, other, folder)


def test_the_rows_of_the_last_evaluation_come_back_just_where_there_are_some(tmp_path):
    save_checkpoint(tmp_path, make_checkpoint())
    assert evaluated_before(tmp_path, 5) is evaluated_before(tmp_path, 6) is None
    save_checkpoint(tmp_path, dataclasses.replace(make_checkpoint(), evaluated=DOUBLED))
    assert bits(evaluated_before(tmp_path, 5)) == bits(DOUBLED)


def two_encoders(width=6):
    """Rows of two text encoders, and the optimizer over them; a row of the second stays."""
    second = np.random.default_rng(1).normal(size=(3, width)).astype(np.float32)
    learns = {ENCODER: np.array([True] * 3), SECOND_ENCODER: np.array([True, True, False])}
    inner = optim.make_optimizer("adamw", lambda step: 1e-3)
    return ROWS | {SECOND_ENCODER: second}, optim.mask_rows(inner, learns)


def test_rows_of_two_encoders_come_back_and_those_of_other_widths_are_refused(tmp_path):
    rows, optimizer = two_encoders()
    state = jax.tree.map(lambda leaf: np.asarray(leaf) + np.float32(0.1), optimizer.init(rows))
    mean = {encoder: each * 2 for encoder, each in rows.items()}
    leaves = optimizer_leaves(state)
    assert {leaf.shape for leaf in leaves.values()} == {(), (3, 8), (2, 6)}
    saved = dataclasses.replace(make_checkpoint(), rows=rows, optimizer=leaves, mean_rows=mean)
    folder = save_checkpoint(tmp_path, saved)
    loaded = load_checkpoint(folder)
    assert bits(loaded.rows) == bits(rows)
    assert bits(restore_mean(rows, loaded, folder)) == bits(mean)
    restored = restore_optimizer(optimizer.init(rows), loaded.optimizer, folder)
    for found, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert np.asarray(found).tobytes() == np.asarray(wanted).tobytes()
    wider, of_wider = two_encoders(width=7)
    for other, its_optimizer in ((wider, of_wider), (ROWS, make_optimizer())):
        with pytest.raises(CheckpointError, match="expected optimizer state .*Resume with the optimizer"):
            restore_optimizer(its_optimizer.init(other), loaded.optimizer, folder)


def test_what_has_no_rows_is_no_checkpoint_of_this_program(tmp_path):
    folder = save_checkpoint(tmp_path, dataclasses.replace(make_checkpoint(), rows={}))
    with pytest.raises(CheckpointError, match="checkpoint-5: expected a checkpoint of this program"):
        load_checkpoint(folder)


def test_a_checkpoint_whose_arrays_orbax_wrote_is_said_to_be_older(tmp_path, capsys):
    folder = tmp_path / "checkpoint-6"
    with atomic_folder(folder) as unfinished:
        (unfinished / "state").mkdir(parents=True)
        (unfinished / "state" / "_METADATA").write_text("{}")
    for load, given in ((load_checkpoint, folder), (load_newest, tmp_path)):
        with pytest.raises(CheckpointError) as told:
            load(given)
        assert str(told.value) == (
            f"{folder}: expected a checkpoint of this version, with its arrays in a safetensors file, found "
            "one of an older version. Finish the run with the version of ti_flax that began it, or start "
            "again with overwrite_output_dir."
        )
    assert capsys.readouterr().err == ""


def test_only_the_newest_are_kept_and_the_order_is_numeric(tmp_path):
    for step in (90, 100, 1000):
        save_checkpoint(tmp_path, make_checkpoint(step), total_limit=2)
    (tmp_path / "checkpoint-7.tmp").mkdir()
    assert checkpoint_steps(tmp_path) == [100, 1000]
    assert load_newest(tmp_path)[1] == tmp_path / "checkpoint-1000"
    assert find_checkpoint(tmp_path, "checkpoint-100") == tmp_path / "checkpoint-100"
    assert find_checkpoint(tmp_path, str(tmp_path / "checkpoint-100")) == tmp_path / "checkpoint-100"


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path):
    save_checkpoint(tmp_path, make_checkpoint())
    folder = save_checkpoint(tmp_path, make_checkpoint())
    assert load_checkpoint(folder).step == 5


def test_names_that_are_not_there(tmp_path):
    assert load_newest(tmp_path) is None
    save_checkpoint(tmp_path, make_checkpoint())
    with pytest.raises(CheckpointError, match="'checkpoint-6'.*only checkpoint-5"):
        find_checkpoint(tmp_path, "checkpoint-6")


def test_what_is_no_checkpoint_is_said(tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    with pytest.raises(CheckpointError, match="checkpoint-5: expected a whole checkpoint"):
        load_checkpoint(tmp_path / "checkpoint-5")


def damage_one(folder, how):
    path = folder / "arrays.safetensors"
    content = bytearray(path.read_bytes())
    content[20] ^= 4
    path.write_bytes({"flipped": content, "cut": content[:40], "emptied": b""}[how])


@pytest.mark.parametrize("how", ["flipped", "cut", "emptied"])
def test_a_damaged_newest_one_is_said_and_the_one_before_it_used(tmp_path, how, capsys):
    for step in (90, 100):
        save_checkpoint(tmp_path, make_checkpoint(step))
    damage_one(tmp_path / "checkpoint-100", how)
    loaded, folder = load_newest(tmp_path)
    assert (loaded.step, folder) == (90, tmp_path / "checkpoint-90")
    told = capsys.readouterr().err
    assert "checkpoint-100: expected a whole checkpoint, found arrays.safetensors is not as it" in told
    assert "Resume" not in told
    with pytest.raises(CheckpointError, match="checkpoint-100.*Resume from an earlier checkpoint"):
        load_checkpoint(tmp_path / "checkpoint-100")
    damage_one(tmp_path / "checkpoint-90", how)
    with pytest.raises(CheckpointError, match="found 2 that cannot"):
        load_newest(tmp_path)


def test_another_run_is_refused_with_what_differs(tmp_path):
    saved = make_checkpoint()
    check_same_run(saved, dict(FINGERPRINT), tmp_path)
    with pytest.raises(CheckpointError) as caught:
        check_same_run(saved, FINGERPRINT | {"model": "xyz"}, tmp_path)
    assert "model abc" in str(caught.value) and "model xyz" in str(caught.value)
    assert "concept" not in str(caught.value)


def test_another_optimizers_state_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="optimizer state"):
        restore_optimizer(make_optimizer(learned=2).init(ROWS), make_checkpoint().optimizer, tmp_path)


def test_an_unwritable_folder_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="can be written"):
        save_checkpoint(tmp_path / "file", make_checkpoint())


def test_digest_tells_trees_apart():
    tree = {"a": np.arange(1000, dtype=np.float32), "b": np.zeros((2, 3), np.float32)}
    digests = {tree_digest(tree), tree_digest({"a": tree["a"], "c": tree["b"]})}
    digests.add(tree_digest({"a": tree["a"], "b": tree["b"].reshape(3, 2)}))
    digests.add(tree_digest({"a": tree["a"] + 1, "b": tree["b"]}))
    assert len(digests) == 4
    assert tree_digest(tree) == tree_digest(jax.tree.map(np.copy, tree))
