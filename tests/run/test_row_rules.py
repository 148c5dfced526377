"""Whole runs on tiny models: what moves the rows, from where they start."""

import csv
import shutil

import numpy as np
import pytest
from row_trees import ENCODER, only
from tiny_run import configure_scheduled as configure
from tiny_run import learned

from ti_flax.embedding.contents import BEHIND
from ti_flax.embedding.formats import Embedding, embedding_bytes
from ti_flax.embedding.learned_embeds import save_learned_embeds
from ti_flax.errors import CheckpointError, ConfigError
from ti_flax.models.stable_diffusion import load_stable_diffusion
from ti_flax.models.tokenizer import load_tokenizer
from ti_flax.run import train as run
from ti_flax.run.inputs import load_inputs
from ti_flax.training.checkpoint import load_checkpoint


def rows_of(place, folder, **changes):
    """The rows of a run of a few steps, and the state it ended with."""
    changes = {"lr_scheduler": "constant", "max_train_steps": 3, "checkpointing_steps": 1} | changes
    return learned(run.train(configure(place, folder, **changes)))


def test_every_way_of_moving_rows_is_in_a_whole_run_and_resumes(place, tmp_path):
    """Start words, loaded embeddings, stepped rate, optimizer, average, norm and pull, all in one run."""
    old = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)
    save_learned_embeds(tmp_path / "old.bin", "<old>", old)
    changes = {
        "initializer_token": "red toy",
        "num_vectors": 3,
        "extra_embeds": [str(tmp_path / "old.bin")],
        "learning_rate": "0.01:1, 0.02",
        "optimizer": "lion",
        "optimizer_args": ["weight_decay=0.1"],
        "use_ema": True,
        "embedding_norm": "keep",
        "pull_to_start": 0.1,
        "max_train_steps": 3,
        "lr_scheduler": "constant",
        "checkpointing_steps": 1,
        "validation_prompt": ["a <thing> on a <old>"],
        "num_validation_images": 1,
        "validation_steps": 3,
    }
    config = configure(place, tmp_path / "out", only_save_embeds=False, **changes)
    rows = learned(run.train(config))
    with (tmp_path / "out" / "metrics.csv").open() as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(rates, [0.01, 0.02, 0.02])
    saved = load_checkpoint(tmp_path / "out" / "checkpoint-3")
    last, mean = only(saved.rows), only(saved.mean_rows)
    assert last.shape == (5, 32) and last[3:].tobytes() == old.tobytes()
    assert rows.tobytes() == mean[:3].tobytes() != last[:3].tobytes()
    median = only(load_inputs(config).added.median_norm)
    np.testing.assert_allclose(np.linalg.norm(last[:3], axis=1), median, rtol=1e-5)
    # The pipeline holds all that training prompts could name.
    table = load_stable_diffusion(tmp_path / "out").params["text_encoder"]["text_model"]["embeddings"]
    table = np.asarray(table["token_embedding"]["embedding"])
    np.testing.assert_array_equal(table[-5:], np.concatenate([rows, old]))
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.convert_tokens_to_ids(["<thing>", "<old>_1"]) == [len(table) - 5, len(table) - 1]

    for step in (2, 3):
        shutil.rmtree(tmp_path / "out" / f"checkpoint-{step}")
    again = learned(run.train(config.replace(resume_from_checkpoint="latest")))
    assert again.tobytes() == rows.tobytes()
    save_learned_embeds(tmp_path / "old.bin", "<old>", old + 1)
    with pytest.raises(CheckpointError, match="expected extra_embeds"):
        run.train(config.replace(resume_from_checkpoint="latest"))
    save_learned_embeds(tmp_path / "old.bin", "<old>", old)
    with pytest.raises(CheckpointError, match="expected a checkpoint without an average.*use_ema"):
        run.train(config.replace(resume_from_checkpoint="latest", use_ema=False))


@pytest.mark.parametrize(
    "rules", [{"embedding_norm": "keep", "pull_to_start": 0.1}, {"optimizer": "directional"}]
)
def test_an_output_embedding_of_onetrainer_stays_beside_the_word(place, tmp_path, capsys, rules):
    behind = {ENCODER: np.random.default_rng(0).normal(size=(1, 32)).astype(np.float32)}
    old = Embedding("<old>", "<old>", {ENCODER: behind[ENCODER] * 0}, behind=behind)
    (tmp_path / "old.safetensors").write_bytes(embedding_bytes(old, "onetrainer", ".safetensors"))
    (tmp_path / "prompts.txt").write_text("a {} on a <old>\n")
    changes = {
        "extra_embeds": [f"<old>={tmp_path / 'old.safetensors'}"],
        "template_file": str(tmp_path / "prompts.txt"),
        "use_ema": True,
        "eval_steps": 1,
        "load_best_model_at_end": True,
        **rules,
    }
    rows = rows_of(place, tmp_path / "out", **changes, only_save_embeds=False)
    assert "a pipeline has no place for vectors that go behind a text encoder" in capsys.readouterr().err
    saved = load_checkpoint(tmp_path / "out" / "checkpoint-3")
    assert saved.rows[ENCODER].shape == (3, 32) and rows.shape == (2, 32)
    for each in (saved.rows, saved.mean_rows):
        np.testing.assert_array_equal(each[ENCODER + BEHIND], np.concatenate([rows * 0, behind[ENCODER]]))


def test_random_starts_follow_the_seed_which_is_drawn_before_them(place, tmp_path, capsys):
    changes = {"initializer_token": None, "initializer_mode": "random", "learning_rate": 0.0}
    drawn = rows_of(place, tmp_path / "out", **changes, seed=None)
    seed = load_checkpoint(tmp_path / "out" / "checkpoint-3").config["seed"]
    assert f"seed {seed}" in capsys.readouterr().err
    assert "starting from random vectors" in (tmp_path / "out" / "README.md").read_text()
    starts = [
        only(load_inputs(configure(place, tmp_path / "x", **changes, seed=each)).added.start)
        for each in (seed, 4)
    ]
    assert drawn.tobytes() == starts[0].tobytes() != starts[1].tobytes()


def test_a_schedule_free_run_exports_and_draws_the_average(place, tmp_path, monkeypatch):
    from ti_flax.run import hooks as monitoring

    drawn = []
    monkeypatch.setattr(
        monitoring.ImageGenerator,
        "generate",
        lambda self, params, rows, **_: drawn.append(only(rows)) or np.zeros((1, 8, 8, 3), "u1"),
    )
    changes = {
        "optimizer": "schedule_free_adamw",
        "validation_prompt": "a <thing>",
        "num_validation_images": 1,
    }
    rows = rows_of(place, tmp_path / "out", **changes, validation_steps=3, learning_rate=0.05)
    saved = load_checkpoint(tmp_path / "out" / "checkpoint-3")
    (z,) = (leaf for name, leaf in saved.optimizer.items() if name.endswith(".z['learned']['text_encoder']"))
    last = only(saved.rows)
    expected = (last - np.float32(1 - np.float32(0.9)) * z) / np.float32(0.9)
    np.testing.assert_allclose(rows, expected, rtol=1e-6)
    assert (rows != last).all()
    assert [each.tobytes() == rows.tobytes() for each in drawn] == [False, True]  # the first: the start


def test_directions_learn_on_the_sphere_from_the_first_preview_to_a_resumed_end(place, tmp_path, monkeypatch):
    """With a loaded embedding, accumulated gradients, a strong prior and an average."""
    from ti_flax.run import hooks as monitoring

    drawn = []
    monkeypatch.setattr(
        monitoring.ImageGenerator,
        "generate",
        lambda self, params, rows, **_: drawn.append(only(rows)) or np.zeros((1, 8, 8, 3), "u1"),
    )
    old = np.random.default_rng(0).normal(size=(1, 32)).astype(np.float32)
    save_learned_embeds(tmp_path / "old.bin", "<old>", old)
    changes = {
        "optimizer": "directional",
        "directional_kappa": 0.01,
        "learning_rate": 0.05,
        "gradient_accumulation_steps": 2,
        "use_ema": True,
        "ema_decay": 0.5,
        "extra_embeds": [str(tmp_path / "old.bin")],
        "validation_prompt": "a <thing> on a <old>",
        "num_validation_images": 1,
        "validation_steps": 4,
        "max_train_steps": 4,
        "lr_scheduler": "constant",
        "checkpointing_steps": 2,
    }
    config = configure(place, tmp_path / "out", **changes)
    rows = learned(run.train(config))
    added = load_inputs(config).added
    median, start = only(added.median_norm), only(added.start)
    assert drawn[0].tobytes() == start.tobytes() and drawn[-1][:2].tobytes() == rows.tobytes()
    saved = load_checkpoint(tmp_path / "out" / "checkpoint-4")
    last, mean = only(saved.rows), only(saved.mean_rows)
    assert mean[:2].tobytes() == rows.tobytes() != last[:2].tobytes()
    for found in (start, last, mean):
        np.testing.assert_allclose(np.linalg.norm(found[:2], axis=1), median, rtol=1e-6)
        assert found[2].tobytes() == old.tobytes()
    shutil.rmtree(tmp_path / "out" / "checkpoint-4")
    again = learned(run.train(config.replace(resume_from_checkpoint="latest")))
    assert again.tobytes() == rows.tobytes()
    without = learned(run.train(configure(place, tmp_path / "free", **changes | {"directional_kappa": 0.0})))
    assert (without != rows).all()


def test_wrong_options_of_the_optimizer_are_said_before_anything_is_read(place, tmp_path):
    changes = {"optimizer_args": ["speed=1"], "pretrained_model_name_or_path": str(tmp_path / "none")}
    with pytest.raises(ConfigError, match="optimizer_args 'speed=1': expected an option of adamw: b1, b2"):
        run.train(configure(place, tmp_path, **changes))
    with pytest.raises(ConfigError, match="adam_beta1 and b1 of optimizer_args exclude each other"):
        run.train(configure(place, tmp_path, optimizer_args=["betas=0.8,0.9"], adam_beta1=0.8))
