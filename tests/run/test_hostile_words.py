"""Words that name places, and places that nothing can be written to."""

import os
import shutil

import numpy as np
import pytest
from hostile_cases import Case, check, place, train, written
from tiny_folder import write_images

from ti_flax.commands import generate
from ti_flax.console.program import exit_code
from ti_flax.embedding.learned_embeds import save_learned_embeds


def word(token):
    return lambda folder: train(folder, placeholder_token=token)


def learned(token, **changes):
    """A whole run, which leaves files in its output folder and nowhere else."""

    def run(folder):
        command = train(folder, placeholder_token=token, **changes)

        def whole():
            assert command() == 0
            left = sorted(path.name for path in (folder / "output").iterdir())
            assert "learned_embeds.safetensors" in left and "report.html" in left
            page = (folder / "output" / "report.html").read_text(encoding="utf-8")
            assert "<script>alert" not in page and "\x1b" not in page
            return f"learned: {token!r}, all files in output_dir"

        return whole

    return run


def beside(token):
    def run(folder):
        save_learned_embeds(folder / "a.safetensors", token, np.zeros((2, 32), np.float32))
        return train(folder, extra_embeds=folder / "a.safetensors")

    return run


def output(make):
    def run(folder):
        make(folder / "output")
        return train(folder)

    return run


def drawing(*arguments):
    """A call of scripts/generate.py."""

    def run(folder):
        model = f"--pretrained_model_name_or_path={place() / 'model'}"
        options = [model, "--prompt=a cat", f"--output={folder / 'output' / 'a.png'}", *arguments]
        return lambda: exit_code(lambda: generate.run(generate.parse_arguments(options)))

    return run


def words(*several, **changes):
    """A run that learns several words together."""
    return lambda folder: train(folder, "--placeholder_token", *several, placeholder_token=None, **changes)


def strange_names(folder):
    """A whole run on images whose names are no UTF-8."""
    images = folder / "pictures"
    shutil.copytree(place() / "pictures", images)
    os.rename(images / "0.png", os.fsencode(images) + b"/\xe9\x1b[2J\n<b>.png")
    return learned("../../<script>alert(1)</script>", train_data_dir=images)(folder)


def caption_half(folder):
    images = folder / "pictures"
    shutil.copytree(place() / "pictures", images)
    os.rename(images / "0.png", os.fsencode(images) + b"/a <thing> \xe9.png")
    return train(folder, train_data_dir=images, captions="filename", filename_pattern=".*")


CASES = [
    Case(
        "outside",
        "a word that points out of the folder and holds HTML, and images whose names are no UTF-8",
        strange_names,
        memory=2**33,
    ),
    Case("nul", "a zero byte in a word", word("<a\0b>")),
    Case("newline", "a word of two lines", word("<a\nb>")),
    Case("escape", "commands for the terminal", word("<a\x1b[2J>")),
    Case("half", "half of a character", word("<a\udce9>")),
    Case("empty", "an empty word", word(" ")),
    Case("long", "a word of 100,000 letters", word("a" * 100_000)),
    Case("metadata", "a word that safetensors files use themselves", word("__metadata__")),
    Case("known", "a word that the tokenizer knows", word("cat")),
    Case("contained", "a word with a token of the tokenizer in it", word("a<|endoftext|>")),
    Case(
        "twice",
        "the same word in other letters in extra_embeds",
        beside("<THING>"),
    ),
    Case("within", "a word of extra_embeds that holds the word in other letters", beside("my <Thing>")),
    Case(
        "class_prompt",
        "a class_prompt in which the tokenizer sees another token than the word",
        lambda folder: train(
            folder,
            num_vectors=3,
            class_data_dir=write_images(folder / "class", count=1),
            class_prompt="a <Thing>_12",
        ),
    ),
    Case(
        "initializer",
        "an initializer_token with half of a character",
        lambda folder: train(folder, initializer_token="\udce9"),
    ),
    Case(
        "prompt_half", "a prompt of generate.py with bytes that are no UTF-8", drawing("--prompt=caf\udce9")
    ),
    Case("caption_half", "a file's name with such bytes as a caption", caption_half),
    Case("words_file", "two words whose files would be one", words("<a b>", "<a-b>")),
    Case("words_key", "a word of several that is called like a model's tensor", words("<a>", "net.weight")),
    Case("words_reserved", "one that is called like vectors in files", words("<a>", "emb_params")),
    Case(
        "words_unnamed",
        "a word of several that no training prompt names",
        words("<a>", "<b>", prompt_template="one <a>"),
    ),
    Case("words_cut", "a word of several that is cut off", words("<a>", "<b>", num_vectors=40)),
    Case("output_file", "an output_dir that is a file", output(lambda path: written(path, "mine"))),
    Case("output_loop", "one that is a link to itself", output(lambda path: path.symlink_to(path))),
    Case("output_device", "one that is a device", output(lambda path: path.symlink_to("/dev/null"))),
    Case("output_pipe", "one that is a pipe", output(os.mkfifo)),
    Case("pictures_drawn", "generate.py with 1,000,000,000 images", drawing("--num_images=1000000000")),
    Case("side_drawn", "images of 1,000,000,000 pixels a side", drawing("--resolution=1000000000")),
    Case("steps_drawn", "1,000,000,000 steps", drawing("--num_inference_steps=1000000000")),
    Case("seed_drawn", "a seed of 40 digits", drawing("--seed=" + "9" * 40)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_input(case, tmp_path):
    check(case, tmp_path, "test_hostile_words")
