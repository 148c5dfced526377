"""What a mistake in the configuration is answered with: one line, where, and what to do."""

import pathlib
import re

import pytest

from ti_flax.config import RunConfig, parse_config
from ti_flax.config.run_config import OPTIONS
from ti_flax.config.values import wrong_value
from ti_flax.errors import ConfigError

ROOT = pathlib.Path(__file__).parents[2]
REQUIRED = ("pretrained_model_name_or_path", "train_data_dir", "placeholder_token", "initializer_token")
REQUIRED_FLAGS = [f"--{name}=something" for name in REQUIRED]


def parse(*flags: str) -> RunConfig:
    return parse_config([*REQUIRED_FLAGS, *flags])


def error_of(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(list(argv))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def error_in(path: str) -> str:
    return error_of(*REQUIRED_FLAGS, "--config", path).replace(path, "x.yaml")


def test_missing_keys_are_listed_in_one_line():
    message = error_of("--train_data_dir=x")
    assert message.startswith(
        "missing: pretrained_model_name_or_path, placeholder_token, initializer_token. "
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: fast\n", "x.yaml:1: learning_rate: expected a number >= 0, found 'fast'"),
        (
            "\nlearning_rte: 1\n",
            "x.yaml:2: unknown key 'learning_rte'. Did you mean learning_rate?",
        ),
        (
            "max_train_steps: atuo\n",
            "x.yaml:1: max_train_steps: expected a whole number >= 1, auto, or null, found 'atuo'. "
            "Did you mean auto?",
        ),
        ("learning-rate: 1\n", "x.yaml:1: unknown key 'learning-rate'. Did you mean learning_rate?"),
        ("zzz: 1\n", "x.yaml:1: unknown key 'zzz'. `python train_flax.py --help all` lists all keys."),
        ("seed: 1\nseed: 2\n", "x.yaml:2: seed is given twice, first on line 1. Leave one of them out."),
        ("center_crop: 1\n", "x.yaml:1: center_crop: expected true or false, found '1'"),
        ("save_steps: true\n", "x.yaml:1: save_steps: expected a whole number >= 1, found 'true'"),
        ("save_steps: 1.5\n", "x.yaml:1: save_steps: expected a whole number >= 1, found '1.5'"),
        (
            'save_steps: "5"\n',
            "x.yaml:1: save_steps: expected a whole number >= 1, found the text '5'. Leave the quotes out.",
        ),
        ("save_steps:\n", "x.yaml:1: save_steps: expected a whole number >= 1, found null"),
        ("save_steps: [1]\n", "x.yaml:1: save_steps: expected a whole number >= 1, found a list"),
        ("save_steps: {a: 1}\n", "x.yaml:1: save_steps: expected a single value, found a mapping"),
        (
            "validation_prompt: []\n",
            "x.yaml:1: validation_prompt: expected text, or a list of such, or null, found an empty list",
        ),
        (
            "validation_prompt:\n- a\n- [b]\n",
            "x.yaml:3: validation_prompt: expected a single value, found a sequence",
        ),
        ("validation_prompt:\n- a\n- ''\n", "x.yaml:3: validation_prompt: expected text, found empty text"),
        ('output_dir: " "\n', "x.yaml:1: output_dir: expected text, found empty text"),
        ("", "x.yaml: expected lines of the form `name: value`, found an empty file"),
        ("- seed\n", "x.yaml: expected lines of the form `name: value`, found a sequence"),
        ("seed\n", "x.yaml: expected lines of the form `name: value`, found a scalar"),
        (
            "seed: !!python/name:os.system\n",
            "x.yaml:1: seed: expected a plain value, "
            "found the YAML tag tag:yaml.org,2002:python/name:os.system",
        ),
    ],
)
def test_mistakes_in_files(write, text, message):
    assert error_in(write(text)) == message


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("training:\n  seed: 1\n", "x.yaml:1: unknown key 'training'. Keys are not grouped"),
        ("seed: 1\nrevision: *\n", "x.yaml:2:12: not valid YAML: while scanning an alias"),
        ("seed: [\n", "x.yaml:2:1: not valid YAML"),
        ("seed: 1\n---\nseed: 2\n", "x.yaml:2:1: not valid YAML"),
        ("revision: \x01\n", "x.yaml: not valid YAML: unacceptable character"),
        ("? [a]\n: 1\n", "x.yaml:1: expected the name of an option before the colon, found a sequence"),
        ("config: other.yaml\n", "x.yaml:1: unknown key 'config'. A file cannot name another"),
        (b"\xff\xfe", "x.yaml: expected a text file in UTF-8"),
    ],
)
def test_files_that_are_no_configuration(write, text, start):
    assert error_in(write(text)).startswith(start)


def test_file_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert error_of("--config=configs/demos.yaml") == (
        "configs/demos.yaml: no such file. Did you mean configs/demo.yaml?"
    )
    assert error_of("--config=cat").endswith("Did you mean configs/cat.yaml?")
    assert str(ROOT) in error_of("--config=qqqqqq.yaml")
    assert error_of(f"--config={tmp_path}").startswith(f"{tmp_path}: expected a configuration file, found a")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning_rat=1"], "unknown flag --learning_rat. Did you mean --learning_rate?"),
        (["--learning-rate", "1"], "unknown flag --learning-rate. Did you mean --learning_rate?"),
        (["--max_train=1"], "unknown flag --max_train. Did you mean --max_train_steps?"),
        (["-x"], "unknown flag -x. ti-flax train --help all lists all flags."),
        (["--no_scale_lr=true"], "--no_scale_lr takes no value"),
        (["--scale_lr=2"], "--scale_lr: expected true or false, found '2'"),
        (
            ["--resolution=100"],
            "--resolution: expected a whole number > 0 and a multiple of 8, found 100. "
            "The nearest are 96 and 104.",
        ),
        (["--save_steps=2.0"], "--save_steps: expected a whole number >= 1, found '2.0'"),
        (
            ["--mixed_precision=bf15"],
            "--mixed_precision: expected one of no, fp16, bf16, found 'bf15'. Did you mean bf16?",
        ),
    ],
)
def test_mistakes_in_flags(flags, message):
    assert error_of(*REQUIRED_FLAGS, *flags) == message


@pytest.mark.parametrize(
    "flag",
    [
        "--resolution=0",
        "--resolution=-8",
        "--flip_p=1.01",
        "--flip_p=-0.1",
        "--flip_p=nan",
        "--num_vectors=0",
        "--train_batch_size=0",
        "--gradient_accumulation_steps=0",
        "--max_train_steps=0",
        "--max_train_steps=3000000000",
        "--seed=-1",
        "--seed=4294967296",
        "--steps_per_call=0",
        "--learning_rate=inf",
        "--learning_rate=-1",
        "--adam_beta1=1",
        "--adam_beta2=-0.1",
        "--adam_epsilon=0",
        "--adam_weight_decay=-1",
        "--max_grad_norm=0",
        "--lr_warmup_steps=-1",
        "--checkpoints_total_limit=0",
        "--save_steps=0",
        "--learnable_property=Object",
        "--interpolation=box",
        "--lr_scheduler=step",
        "--placeholder_token=",
        "--hub_token=",
    ],
)
def test_values_out_of_range(flag):
    assert error_of(*REQUIRED_FLAGS, flag).startswith(f"{flag.partition('=')[0]}: expected ")


def test_values_at_the_limits():
    config = parse(
        "--flip_p=1", "--adam_beta1=0", "--seed=4294967295", "--resolution=8", "--lr_warmup_steps=0"
    )
    assert (config.images.flip_p, config.optimizer.adam_beta1) == (1.0, 0.0)
    assert type(config.images.flip_p) is float


def test_an_unknown_tracker_names_those_there_are():
    message = error_of(*REQUIRED_FLAGS, "--report_to=wanb")
    assert message == (
        "--report_to: expected one of none, all, tensorboard, wandb, comet_ml, mlflow, aim, clearml, "
        "dvclive, swanlab, trackio, found 'wanb'. metrics.csv is written in any case."
    )


def test_no_tracker_goes_with_others():
    message = "report_to: expected none alone, or the names of trackers, found none, wandb"
    assert error_of(*REQUIRED_FLAGS, "--report_to=none", "--report_to=wandb") == message


def test_a_flag_without_its_value():
    message = error_of(*REQUIRED_FLAGS, "--learning_rate", "-5e-4")
    assert message.startswith("--learning_rate: expected a number >= 0, found no value.")
    assert error_of("--config").startswith("--config: expected the name of a file, found no value")
    assert error_of(*REQUIRED_FLAGS, "stray").startswith("'stray' belongs to no flag")


@pytest.mark.parametrize("name", ["constant_with_warmup", "linear", "cosine"])
def test_warmup_longer_than_the_run(name):
    flags = [f"--lr_scheduler={name}", "--max_train_steps=100"]
    message = error_of(*REQUIRED_FLAGS, *flags, "--lr_warmup_steps=100")
    assert "lr_warmup_steps" in message and "max_train_steps (100)" in message and name in message
    assert parse(*flags, "--lr_warmup_steps=99").optimizer.lr_warmup_steps == 99
    assert parse("--max_train_steps=100").optimizer.lr_warmup_steps == 500


def test_contradictions_name_both_options():
    message = error_of(*REQUIRED_FLAGS, "--overwrite_output_dir", "--resume_from_checkpoint=latest")
    assert "overwrite_output_dir" in message and "resume_from_checkpoint" in message
    message = error_of(*REQUIRED_FLAGS, "--only_save_embeds", "--save_as_full_pipeline")
    assert "only_save_embeds" in message and "save_as_full_pipeline" in message


def test_a_pattern_that_is_none():
    message = error_of(*REQUIRED_FLAGS, "--captions=filename", "--filename_pattern=(")
    assert message.startswith("filename_pattern: expected a regular expression")


def test_an_attention_without_float32_names_the_precision():
    message = error_of(*REQUIRED_FLAGS, "--attention=cudnn")
    assert message.startswith("attention cudnn requires mixed_precision bf16 or fp16: found no.")
    assert "Set mixed_precision to bf16" in message
    assert parse("--attention=cudnn", "--mixed_precision=bf16").model.attention == "cudnn"


def test_the_prompt_of_class_images_holds_the_word():
    message = error_of(*REQUIRED_FLAGS, "--class_data_dir=x", "--class_prompt=a toy")
    assert message == (
        "class_prompt: expected a prompt with placeholder_token something in it, found 'a toy'. Only the "
        "new word learns, so a prompt without it would change nothing."
    )


@pytest.mark.parametrize(("word", "prompt"), [("<My-Cat>", "a <my-CAT>"), ("<café>", "a <cafe\u0301>")])
def test_the_prompt_of_class_images_may_spell_the_word_as_the_tokenizer_reads_it(word, prompt):
    flags = [each for each in REQUIRED_FLAGS if "placeholder_token" not in each]
    flags += [f"--placeholder_token={word}", "--class_data_dir=x", f"--class_prompt={prompt}"]
    assert parse_config(flags).loss.class_prompt == prompt


def test_losses_that_go_together():
    loss = parse("--loss_type=smooth_l1", "--huber_schedule=null", "--class_data_dir=x").loss
    assert (loss.loss_type, loss.huber_schedule, loss.class_prompt) == ("smooth_l1", None, None)
    parse("--class_data_dir=x", "--class_prompt=a something", "--prior_loss_weight=0", "--min_timestep=5")
    parse("--noise_offset=0.1", "--adaptive_noise_scale=-0.1", "--multires_noise_iterations=6")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--initializer_mode=random"],
            "initializer_token requires initializer_mode spread or mean: found random. Set initializer_mode "
            "to spread, or leave initializer_token out.",
        ),
        (["--init_embeds=x.pt"], "init_embeds and initializer_token exclude each other"),
        (
            ["--initializer_token=null"],
            "initializer_token is required, unless init_embeds or initializer_mode random or concepts is ",
        ),
        (
            ["--learning_rate=0.1:5,0.01", "--lr_scheduler=cosine"],
            "learning_rate in steps requires lr_scheduler constant: found cosine",
        ),
        (
            ["--learning_rate=0.1:50, 0.01:100"],
            "learning_rate: expected a last rate without a step, or until max_train_steps (5000), found "
            "'0.1:50, 0.01:100', which ends at step 100. Write for example \"0.1:50, 0.01\"",
        ),
        (
            ["--learning_rate=0.1:50, 0.01:20"],
            '--learning_rate: expected a number >= 0, or steps such as "0.05:50, 0.01:100, 0.005", found '
            "'0.1:50, 0.01:20'. Steps must rise",
        ),
        (["--learning_rate=-1:50, 0.01"], "--learning_rate: expected a number >= 0, found -1.0"),
        (["--learning_rate=1,5"], "Only the last number may do without a step, not '1'"),
        (["--lr_scheduler=polynomial", "--learning_rate=0"], "learning_rate: expected more than 1e-07"),
        (["--lr_scheduler=piecewise_constant"], "lr_scheduler piecewise_constant requires lr_step_rules"),
        (
            ["--lr_scheduler=piecewise_constant", "--lr_step_rules=1:10,0.1:20"],
            "lr_step_rules: expected factors such as \"1:10,0.1:20,0.005\", found '1:10,0.1:20'. "
            "The last factor holds to the end, so it has no step",
        ),
        (
            ["--lr_scheduler=warmup_stable_decay", "--lr_decay_steps=4900"],
            "lr_decay_steps: expected at most max_train_steps - lr_warmup_steps (4500), found 4900",
        ),
        (
            ["--max_train_steps=auto", "--eval_steps=0"],
            "max_train_steps auto and eval_steps 0 exclude each other. Evaluations tell when a run is done",
        ),
        (
            ["--max_train_steps=auto", "--lr_scheduler=cosine"],
            "max_train_steps auto requires lr_scheduler constant or constant_with_warmup: found cosine",
        ),
        (
            ["--max_grad_norm=1", "--grad_clip_value=1"],
            "grad_clip_value and max_grad_norm exclude each other",
        ),
        (
            ["--optimizer=schedule_free_adamw", "--use_ema"],
            "use_ema and optimizer schedule_free_adamw exclude each other",
        ),
        (
            ["--optimizer=schedule_free_sgd", "--lr_scheduler=linear"],
            "optimizer schedule_free_sgd requires lr_scheduler constant or constant_with_warmup: found",
        ),
        (
            ["--optimizer=directional", "--embedding_norm=keep"],
            "embedding_norm and optimizer directional exclude each other",
        ),
        (
            ["--optimizer=directional", "--pull_to_start=0.1"],
            "pull_to_start and optimizer directional exclude each other",
        ),
        (
            ["--optimizer=directional", "--max_grad_norm=1"],
            "max_grad_norm and optimizer directional exclude each other",
        ),
        (["--directional_kappa=0.1"], "directional_kappa requires optimizer directional: found adamw"),
        (["--optimizer=adamw8bit"], "--optimizer: expected one of adamw, adam"),
        (["--ema_decay=1"], "--ema_decay: expected a number >= 0 and < 1"),
        (["--pull_to_start=-1"], "--pull_to_start: expected a number >= 0"),
    ],
)
def test_starts_rates_and_optimizers_that_contradict(flags, message):
    assert message in error_of(*REQUIRED_FLAGS, *flags)


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        (97, "The nearest are 96 and 104."),
        (3, "The nearest is 8."),
        (0, "The nearest is 8."),
        (-5, "The nearest is 8."),
        (2**31 - 1, "The nearest is 2147483640."),
        (2**40, "The largest number possible here is 2147483647."),
    ],
)
def test_the_nearest_multiples_are_named(value, remedy):
    assert error_of(*REQUIRED_FLAGS, f"--resolution={value}").endswith(f"found {value}. {remedy}")


def test_every_multiple_and_every_choice_has_a_remedy():
    multiples = [each for each in OPTIONS.values() if each.rule.multiple_of]
    assert {each.name for each in multiples} >= {"resolution", "bucket_reso_steps"}
    for each in multiples:
        step = each.rule.multiple_of
        low = step if each.rule.at_most else 5 * step
        near = re.findall(
            r"The nearest (?:is|are) (\d+)(?: and (\d+))?\.$", str(wrong_value(each, low + 1, "x"))
        )
        assert near == [(str(low), str(low + step))]
    for each in OPTIONS.values():
        for choice in (choice for choice in each.choices if len(choice) > 4):
            assert f"Did you mean {choice}?" in str(wrong_value(each, f"{choice}x", "x")) or each.rule.remedy
