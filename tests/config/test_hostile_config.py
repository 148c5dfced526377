"""Configuration files that are wrong or mean harm."""

import os

import numpy as np
import pytest
from hostile_cases import Case, check, train, written

from ti_flax.console.program import exit_code
from ti_flax.embedding.learned_embeds import save_learned_embeds

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{name}'] * 9)}]\n"
    for name, after in zip("abcdefghi", "bcdefghij", strict=True)
)


def holding(content, name="run.yaml"):
    """A run with a configuration file of a content."""
    return lambda folder: train(folder, f"--config={written(folder / name, content)}")


def made(make, name="run.yaml"):
    """A run with what a function makes at the place of the configuration file."""

    def run(folder):
        make(folder / name)
        return train(folder, f"--config={folder / name}")

    return run


def flag(**changes):
    return lambda folder: train(folder, **changes)


def own(content):
    """A run whose configuration file says what its words are."""
    return lambda folder: train(
        folder,
        f"--config={written(folder / 'run.yaml', content)}",
        placeholder_token=None,
        **({"initializer_token": None} if "initializer_token" in content else {}),
    )


def starting_from_nothing(folder):
    """A run that learns directions, from vectors that have none."""
    save_learned_embeds(folder / "zero.bin", "<zero>", np.zeros((1, 32), np.float32))
    given = {"optimizer": "directional", "init_embeds": folder / "zero.bin", "initializer_token": None}
    return train(folder, **given)


CASES = [
    Case("missing", "no such file", made(lambda path: None), loose=r"(?<=current folder, )[^ ]+"),
    Case("folder", "a folder", made(lambda path: path.mkdir())),
    Case("empty", "an empty file", holding("")),
    Case("pipe", "a pipe that nobody writes to", made(os.mkfifo)),
    Case("device", "a device without an end", made(lambda path: path.symlink_to("/dev/zero"))),
    Case("loop", "a link to itself", made(lambda path: path.symlink_to(path))),
    Case("picture", "an image", holding(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR")),
    Case("latin1", "text in another encoding", holding("placeholder_token: café\n".encode("latin-1"))),
    Case("zero_byte", "a zero byte", holding(b"seed: 1\x00\n")),
    Case("large", "2 MiB of comments", holding("# a comment\n" * 2**18)),
    Case("deep", "100,000 brackets within one another", holding("seed: " + "[" * 100_000)),
    Case("deep_blocks", "mappings within mappings", holding("".join(" " * n + "a:\n" for n in range(900)))),
    Case("laughs", "anchors that unfold to a thousand million texts", holding(LAUGHS)),
    Case(
        "anchors",
        "the same under a known key",
        holding(f"seed: 1\ntrain_data_dir: &a [{'x, ' * 9}x]\nrepeats: [*a, *a]\n"),
    ),
    Case("cycle", "an anchor within itself", holding("train_data_dir: &a [*a]\n")),
    Case("merge", "a merge key", holding("<<: {seed: 1}\n")),
    Case("undefined", "an alias of nothing", holding("seed: *seed\n")),
    Case(
        "call", "a tag that would call a program", holding("seed: !!python/object/apply:os.system ['true']\n")
    ),
    Case("tag", "another tag", holding("seed: !!binary aGk=\n")),
    Case("tagged_root", "a tag on the whole file", holding("!!python/object:os.system\nseed: 1\n")),
    Case("list", "a list", holding("- seed\n- 1\n")),
    Case("two", "two documents", holding("seed: 1\n---\nseed: 2\n")),
    Case("twice", "a key twice", holding("seed: 1\nseed: 2\n")),
    Case("unknown", "a key of 100,000 letters", holding("k" * 100_000 + ": 1\n")),
    Case("escape", "a key with commands for the terminal", holding('"\\e[2J\\e]0;owned\\a": 1\n')),
    Case("control", "control characters", holding("seed: \x1b[2J\n")),
    Case("other_config", "the config.json of a model", holding('{"_class_name": "UNet2DConditionModel"}')),
    Case("digits", "a number of 5,000 digits", holding("seed: " + "9" * 5000 + "\n")),
    Case("infinite", "a number without an end", holding("learning_rate: .inf\n")),
    Case("overflow", "a number too large", holding("learning_rate: 1e999\n")),
    Case("not_a_number", "what is no number", holding("learning_rate: nan\n")),
    Case("vectors", "2,000,000,000 vectors", flag(num_vectors=2_000_000_000)),
    Case(
        "resolution",
        "images of 2,000,000,000 pixels a side",
        flag(resolution=2_000_000_000),
        loose=r"(?<=fit into )[\d.]+",
    ),
    Case("steps", "more steps than can be counted", flag(max_train_steps=10**30)),
    Case("batch", "a batch of 1,000,000,000 samples", flag(train_batch_size=10**9)),
    Case("accumulated", "1,000,000,000 accumulated batches", flag(gradient_accumulation_steps=10**9)),
    Case("previews", "previews of 1,000,000,000 images", flag(num_validation_images=10**9)),
    Case("samples", "an evaluation of 1,000,000,000 samples", flag(max_eval_samples=10**9)),
    Case("rate_steps", "a learning rate until a step beyond all", flag(learning_rate="0.1:99999999999,0.01")),
    Case(
        "rule_steps",
        "a factor until a step beyond all",
        flag(lr_scheduler="piecewise_constant", lr_step_rules=f"1:{'9' * 5000},0.1"),
    ),
    Case("home", "the home of nobody", flag(train_data_dir="~nobody-here/pictures")),
    Case("home_model", "the same as a model", flag(pretrained_model_name_or_path="~nobody-here/model")),
    Case("nul_path", "a zero byte in a path", flag(train_data_dir="images\0")),
    Case("nul_model", "the same in a model's path", flag(pretrained_model_name_or_path="a\0b")),
    Case("nul_output", "the same in output_dir", flag(output_dir="out\0put")),
    Case(
        "long_output",
        "an output_dir of 5,000 letters",
        flag(output_dir="o" * 5000),
        loose="o{50,}( ... o{50,})?",
    ),
    Case("pattern", "an expression that is none", flag(captions="filename", filename_pattern="(")),
    Case("extension", "an extension with a folder in it", flag(captions="files", caption_extension="../txt")),
    Case(
        "word_lengths",
        "three numbers of vectors for two words",
        own("placeholder_token: [<a>, <b>]\nnum_vectors: [1, 2, 3]\n"),
    ),
    Case("word_twice", "a word twice in other letters", own("placeholder_token: [<cat>, <CAT>]\n")),
    Case("word_within", "a word within another", own("placeholder_token: [cat2, my cat2]\n")),
    Case("word_list", "a list within the list of words", own("placeholder_token: [<a>, [<b>, <c>]]\n")),
    Case(
        "word_start",
        "a word of several that starts from nothing",
        own("placeholder_token: [<a>, <b>]\ninitializer_token: [toy, null]\n"),
    ),
    Case(
        "directional_norm",
        "optimizer directional, and a norm to rescale to",
        flag(optimizer="directional", embedding_norm="limit"),
    ),
    Case(
        "directional_clip",
        "optimizer directional, and a clip that its steps would not show",
        flag(optimizer="directional", grad_clip_value=0.5),
    ),
    Case(
        "directional_momentum",
        "optimizer directional with a momentum",
        flag(optimizer="directional", optimizer_args="momentum=0.9"),
    ),
    Case("directional_zero", "optimizer directional from vectors of zeros", starting_from_nothing),
    Case(
        "kappa_alone",
        "a prior over directions with another optimizer",
        flag(directional_kappa=0.01),
    ),
    Case(
        "word_vectors",
        "5,000 words",
        own(f"placeholder_token: [{', '.join(map('<{}>'.format, range(5000)))}]\n"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_input(case, tmp_path):
    check(case, tmp_path, "test_hostile_config")


def test_a_pipe_that_is_written_to_is_read(tmp_path):
    """As a shell makes of `--config <(command)`."""
    from ti_flax.config.yaml_file import read_yaml

    reading, writing = os.pipe()
    os.write(writing, b"seed: 1\n")
    os.close(writing)
    try:
        entries = read_yaml(f"/dev/fd/{reading}", known=("seed",), groups=())
    finally:
        os.close(reading)
    assert entries["seed"].text == "1"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory")])
def test_want_of_memory_is_one_line(error, capsys):
    """Of Python, and of XLA."""

    def command():
        raise error

    assert exit_code(command) == 2
    line = f"error: not enough memory ({type(error).__name__}). Lower train_batch_size, "
    assert capsys.readouterr().err == f"{line}resolution or the number of images.\n"


def test_other_errors_keep_their_traceback():
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        exit_code(lambda: (_ for _ in ()).throw(RuntimeError("a mistake of ours")))
