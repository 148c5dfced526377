"""Whole runs on tiny models: what they write, and that stopping and resuming changes nothing."""

import csv
import dataclasses

import numpy as np
import pytest
from row_trees import tree
from tiny_folder import write_images
from tiny_run import compilations, learned
from tiny_run import configure_scheduled as configure

from ti_flax.embedding.rows import add_rows
from ti_flax.errors import CheckpointError, ConfigError, DataError, OutputError, TiFlaxError
from ti_flax.run import train as run
from ti_flax.run.inputs import load_inputs
from ti_flax.run.step_config import make_step_config, resolve_num_steps
from ti_flax.training.checkpoint import checkpoint_steps
from ti_flax.training.settings import describe_rate, make_schedule


@pytest.fixture(scope="module")
def whole(place):
    """A run that nothing interrupts, with the messages of its compilations."""
    with compilations() as messages:
        folder = run.train(configure(place, place / "whole", only_save_embeds=False))
    return folder, messages


def test_a_quiet_run_says_nothing_and_a_verbose_one_its_versions(place, tmp_path, capsys):
    for changes, words in (
        ({"quiet": True}, ""),
        ({"verbose": True}, "jaxlib "),
        ({}, "trained to step 3 in "),
    ):
        run.train(configure(place, tmp_path / (words or "quiet"), max_train_steps=3, **changes))
        said = capsys.readouterr().err
        assert words in said and bool(said) is bool(words)
        assert ("jaxlib " in said) is bool(changes.get("verbose"))
    assert any(line.startswith("trained to step 3 in ") for line in said.splitlines())


def test_files_of_a_run(whole):
    folder, _ = whole
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("README.md", "learned_embeds.bin", "learned_embeds.safetensors", "metrics.csv"),
        *("learned_embeds-steps-3.safetensors", "learned_embeds-steps-6.safetensors"),
        *("checkpoint-2", "checkpoint-4", "checkpoint-6", "token_identifier.txt", "type_of_concept.txt"),
        *("concept_images", "report.html", "run.json", "written_files.txt"),
        *("model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae"),
    }
    assert (folder / "token_identifier.txt").read_text() == "<thing>"
    assert (folder / "type_of_concept.txt").read_text() == "object"
    rows = learned(folder)
    assert rows.shape == (2, 32) and np.isfinite(rows).all() and (rows[0] != rows[1]).any()


def test_metrics_have_a_row_for_every_step(whole):
    folder, _ = whole
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [float(row["learning_rate"]) for row in rows[:3]] == [0.0, 5e-3, 1e-2]
    assert all(float(row["loss"]) > 0 and float(row["grad_norm"]) > 0 for row in rows)


def test_one_compilation_of_the_step(whole):
    _, messages = whole
    # Only the program of the step takes windows: 8 devices, a slot, 500 updates of a batch of one picture.
    compiled = [message for message in messages if "float32[8,1,500,1,1,512]" in message]
    assert len(compiled) == 1, [message[:200] for message in compiled]


@pytest.mark.parametrize("changes", [{"steps_per_call": 1}, {"steps_per_call": 5}, {"save_steps": 5}])
def test_chunks_and_hooks_do_not_change_a_bit(place, tmp_path, whole, changes):
    folder = run.train(configure(place, tmp_path, **changes))
    assert learned(folder).tobytes() == learned(whole[0]).tobytes()


def test_previews_do_not_change_a_bit(place, tmp_path, whole):
    from PIL import Image

    changes = {"validation_prompt": "a <thing>", "validation_steps": 3, "num_validation_images": 4}
    folder = run.train(configure(place, tmp_path, **changes))
    assert learned(folder).tobytes() == learned(whole[0]).tobytes()
    for step in (3, 6):
        with Image.open(folder / "validation" / f"step-{step}.png") as image:
            assert image.size == (128, 32)


def test_the_contact_sheet_shows_before_and_after(place, tmp_path, monkeypatch, capsys):
    from ti_flax.monitoring import previews

    sheets, drawn = [], []
    make_sheet, make_grid = previews.contact_sheet, previews.image_grid_of
    monkeypatch.setattr(
        previews,
        "contact_sheet",
        lambda rows, **more: sheets.append((rows, more)) or make_sheet(rows, **more),
    )
    monkeypatch.setattr(
        previews, "image_grid_of", lambda all, columns: drawn.append(all) or make_grid(all, columns)
    )
    prompts = ["a <thing>", "the <thing> and a toy"]
    file = tmp_path / "prompts.txt"
    file.write_text("# two prompts\n\na {} --n red --d 5\nthe {} and a toy --d 7 --s 25\n")
    changes = {"validation_prompt_file": str(file), "validation_steps": 6, "num_validation_images": 2}
    folder = run.train(configure(place, tmp_path / "run", **changes))
    assert (folder / "contact_sheet.png").is_file()
    page = (folder / "report.html").read_text()
    assert all(f"{prompt.replace('<', '&lt;').replace('>', '&gt;')}" in page for prompt in prompts)
    err = capsys.readouterr().err
    assert f"all about it: {folder}/report.html" in err
    assert (
        f"\nfor InvokeAI: python scripts/convert_embeds.py {folder}/learned_embeds.safetensors "
        "thing.safetensors --to invoke; for OneTrainer: --to onetrainer\n" in err
    )
    (first, _), (rows, more) = sheets
    assert [name for name, _ in first] == [name for name, _ in rows] == ["training images", *prompts]
    assert more["heads"] == [("before", 2), ("step 6", 2)]
    assert all(images.shape[1:] == (32, 32, 3) for _, images in rows)
    before, after = (np.concatenate([rows[1][1][i : i + 2], rows[2][1][i : i + 2]]) for i in (0, 2))
    np.testing.assert_array_equal(before, drawn[0])
    np.testing.assert_array_equal(after, drawn[1])
    assert (before != after).any()
    assert (after[:2] != after[2:]).any()


def test_another_seed_gives_other_rows(place, tmp_path, whole):
    folder = run.train(configure(place, tmp_path, seed=4))
    assert learned(folder).tobytes() != learned(whole[0]).tobytes()


def test_a_finished_run_is_not_overwritten_unless_told_to(place, tmp_path):
    folder = run.train(configure(place, tmp_path, max_train_steps=3))
    before = learned(folder)
    with pytest.raises(OutputError, match="a finished run.*overwrite_output_dir"):
        run.train(configure(place, tmp_path, max_train_steps=3, seed=9))
    assert learned(folder).tobytes() == before.tobytes()
    again = {"max_train_steps": 3, "seed": 9, "overwrite_output_dir": True}
    with pytest.raises(DataError):  # nothing is removed for a run that cannot be
        run.train(configure(place, tmp_path, **again, train_data_dir=str(place / "model" / "vae")))
    assert learned(folder).tobytes() == before.tobytes() and checkpoint_steps(folder) == [2, 3]
    run.train(configure(place, tmp_path, **again))
    assert learned(folder).tobytes() != before.tobytes()
    (folder / "learned_embeds.safetensors").unlink()
    with pytest.raises(OutputError, match="an unfinished run, checkpoint-3"):
        run.train(configure(place, tmp_path, max_train_steps=3))


@pytest.mark.parametrize(
    "changes, differs",
    [
        ({"placeholder_token": "<other>"}, "concept <thing> <thing>_1 from toy"),
        ({"initializer_token": "cat"}, "concept"),
        ({"num_vectors": 1}, "concept"),
        ({"learnable_property": "style"}, "prompts"),
        ({"train_data_dir": "other"}, "images"),
    ],
)
def test_resuming_something_else_is_refused(place, whole, tmp_path, changes, differs):
    if "train_data_dir" in changes:
        changes = {"train_data_dir": str(write_images(tmp_path / "other", count=2))}
    folder, _ = whole
    with pytest.raises(CheckpointError, match=f"checkpoint-6: expected {differs}"):
        run.train(configure(place, folder, resume_from_checkpoint="latest", **changes))


def test_resuming_without_a_checkpoint_starts_from_the_beginning(place, tmp_path, whole, capsys):
    folder = run.train(configure(place, tmp_path, resume_from_checkpoint="latest"))
    assert "starting from the beginning" in capsys.readouterr().err
    assert learned(folder).tobytes() == learned(whole[0]).tobytes()


def test_epochs_count_images_times_repeats(place, tmp_path):
    changes = {"max_train_steps": None, "num_train_epochs": 2, "repeats": 8, "lr_warmup_steps": 0}
    config = configure(place, place / "x", **changes)
    images = load_inputs(config).images
    # 3 images x 8 repeats over 8 devices are 3 updates an epoch.
    assert resolve_num_steps(config, sum(images.weights)).training.max_train_steps == 6


def test_sources_are_shown_in_proportion_to_their_repeats(place, tmp_path, capsys):
    one = str(place / "pictures" / "0.png")
    config = configure(place, tmp_path, train_data_dir=[str(place / "pictures"), one], repeats=[8, 40])
    inputs = load_inputs(config)
    assert inputs.images.weights == (8, 8, 8, 40)
    (bucket,) = inputs.examples.buckets
    np.testing.assert_array_equal(bucket.sample_indices, (0, 1, 2, 3, 3, 3, 3, 3))
    said = capsys.readouterr().err
    assert "4 images" in said and "note: images that are there twice: 0.png is the same as 0.png" in said


def test_scale_lr_counts_all_samples_of_an_update(place):
    config = configure(place, place / "x", train_batch_size=2, gradient_accumulation_steps=4)
    config = config.replace(lr_scheduler="constant")
    assert float(make_schedule(config.optimizer, config.training)(0)) == np.float32(1e-2)
    scaled = config.replace(scale_lr=True)
    assert float(make_schedule(scaled.optimizer, scaled.training)(0)) == pytest.approx(1e-2 * 2 * 4 * 8)
    assert describe_rate(scaled.optimizer, scaled.training) == "0.64"
    stepped = scaled.replace(learning_rate="0.1:2, 0.01")
    rates = make_schedule(stepped.optimizer, stepped.training)(np.arange(3))
    np.testing.assert_allclose(rates, [6.4, 6.4, 0.64], rtol=1e-6)
    assert describe_rate(stepped.optimizer, stepped.training) == "64 x (0.1:2, 0.01)"


def test_the_vae_is_dropped_before_training(place, tmp_path):
    inputs = load_inputs(configure(place, tmp_path))
    assert set(inputs.model.params) == {"text_encoder", "unet"}


def test_bfloat16_runs_and_keeps_rows_in_float32(place, tmp_path):
    folder = run.train(configure(place, tmp_path, mixed_precision="bf16", gradient_checkpointing=True))
    rows = learned(folder)
    assert rows.dtype == np.float32
    assert (rows != rows.astype(np.float16).astype(np.float32)).any()


def test_command_line_reports_one_line_and_exit_code_2(place, tmp_path, capsys):
    import train_flax

    flags = [f"--{name}={value}" for name, value in configure(place, tmp_path).to_dict().items() if value]
    assert train_flax.main([*flags, "--train_data_dir", str(tmp_path / "nothing")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1 and "no such folder" in lines[0]


def test_a_profile_shows_the_calls_after_the_first(place, tmp_path, whole, capsys):
    folder = tmp_path / "trace"
    changes = {"profile": str(folder), "steps_per_call": 1, "output_dir": str(tmp_path / "out")}
    again = run.train(configure(place, tmp_path / "out", **changes))
    assert f"trace of steps 2 to 3: {folder}" in capsys.readouterr().err
    assert [path.stat().st_size > 1000 for path in folder.rglob("perfetto_trace.json.gz")] == [True]
    np.testing.assert_array_equal(learned(again), learned(whole[0]))


def test_a_run_that_is_over_before_the_profile_says_so(place, tmp_path, capsys):
    run.train(
        configure(
            place,
            tmp_path / "out",
            profile=str(tmp_path / "trace"),
            max_train_steps=3,
            steps_per_call=2,
            lr_warmup_steps=0,
            checkpointing_steps=3,
        )
    )
    assert "a smaller steps_per_call, would show more" in capsys.readouterr().err


def test_every_attention_gives_the_same_rows_within_rounding(place, tmp_path, whole):
    found = learned(run.train(configure(place, tmp_path / "out", attention="blockwise")))
    np.testing.assert_allclose(found, learned(whole[0]), atol=1e-4)
    assert (found != learned(whole[0])).any()


@pytest.mark.parametrize(("name", "needs"), [("cudnn", "GPU"), ("flash", "TPU")])
def test_an_attention_of_another_machine_is_refused(place, tmp_path, name, needs):
    config = configure(place, tmp_path / "out", attention=name, mixed_precision="bf16")
    with pytest.raises(ConfigError, match=f"auto, plain or blockwise .*cpu.* needs a {needs}"):
        run.train(config)


def test_compiled_programs_are_kept_in_the_users_cache_unless_told_otherwise(monkeypatch, tmp_path):
    import jax

    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("TI_FLAX_CACHE", str(tmp_path))
    try:
        run.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == before
        jax.config.update("jax_compilation_cache_dir", None)
        run.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "compiled")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_class_images_are_gathered_with_prompts_that_hold_the_word(place, tmp_path, capsys):
    write_images(tmp_path / "class", count=2)
    plain = load_inputs(configure(place, tmp_path))
    changes = {"class_data_dir": str(tmp_path / "class")}
    inputs = load_inputs(configure(place, tmp_path, **changes))
    assert "2 class images" in capsys.readouterr().err
    [bucket] = inputs.examples.class_buckets
    assert bucket.posteriors.shape == (2, *plain.examples.buckets[0].posteriors.shape[1:])
    np.testing.assert_array_equal(inputs.examples.token_ids, plain.examples.token_ids)
    np.testing.assert_array_equal(inputs.examples.class_token_ids, plain.examples.token_ids)
    prompted = load_inputs(configure(place, tmp_path, class_prompt="my <thing>", **changes))
    first = plain.concept.token_ids[0]
    [tokens] = prompted.examples.class_token_ids
    assert (tokens == tokens[0]).all() and list(tokens[0, 2:4]) == [first, first + 1]
    prints = [each.fingerprint for each in (plain, inputs, prompted)]
    assert len({each["images"] for each in prints}) == 2 and len({each["prompts"] for each in prints}) == 3


def test_a_class_folder_that_is_not_there_is_named_by_its_option(place, tmp_path):
    config = configure(place, tmp_path, class_data_dir=str(tmp_path / "nothing"))
    with pytest.raises(TiFlaxError, match="^class_data_dir .*nothing: found no such folder"):
        load_inputs(config)


def test_options_of_the_loss_reach_the_step_and_are_repeated_by_a_resumed_run(place, tmp_path):
    from tiny_models import LEAST

    from ti_flax.config.options import LossOptions
    from ti_flax.config.values import options_of
    from ti_flax.models.stable_diffusion import random_stable_diffusion

    model = random_stable_diffusion(LEAST["sd1"], seed=0)
    given = {
        "loss_type": "huber",
        "huber_c": 0.2,
        "huber_schedule": "constant",
        "snr_gamma": 5,
        "noise_offset": 0.1,
        "adaptive_noise_scale": 0.2,
        "multires_noise_iterations": 6,
        "multires_noise_discount": 0.4,
        "input_perturbation": 0.05,
        "min_timestep": 100,
        "max_timestep": 900,
        "timestep_sampling": "stratified",
        "class_data_dir": "x",
        "prior_loss_weight": 0.5,
    }
    added = add_rows(*[tree(np.zeros((2, 32), np.float32))] * 2)
    step_config, _ = make_step_config(
        configure(place, tmp_path, **given), model, 100, added=added, devices=1, batches=1
    )
    assert step_config.objective.loss_type == "huber" and set(step_config.objective.huber_c) == {
        np.float32(0.2)
    }
    assert step_config.objective.weights.shape == (1000,) and step_config.objective.prior_loss_weight == 0.5
    assert dataclasses.astuple(step_config.draw_rules.noise) == (0.1, 0.2, 6, 0.4, 0.05)
    assert dataclasses.astuple(step_config.draw_rules.timesteps) == (100, 900, "stratified")
    fingerprinted = {"class_data_dir", "class_prompt"}
    assert {each.name for each in options_of(LossOptions) if not each.rule.changes_bits} == fingerprinted
    with pytest.raises(ConfigError, match="^max_timestep: expected at most 1000"):
        make_step_config(
            configure(place, tmp_path, max_timestep=1001), model, 100, added=added, devices=1, batches=1
        )


def test_a_run_with_class_images_and_other_losses(place, tmp_path, whole):
    write_images(tmp_path / "class", count=2)
    changes = {"class_data_dir": str(tmp_path / "class"), "loss_type": "smooth_l1", "snr_gamma": 5}
    changes |= {"noise_offset": 0.1, "timestep_sampling": "antithetic", "lr_warmup_steps": 0}
    rows = learned(run.train(configure(place, tmp_path / "out", max_train_steps=2, **changes)))
    assert np.isfinite(rows).all() and (rows != learned(whole[0])).any()
