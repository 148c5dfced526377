"""Options of captions and templates: what each changes in a run, and that it changes nothing else."""

import dataclasses

import numpy as np
import pytest
import tiny_run
from tiny_folder import write_folder, write_images
from tiny_run import learned, train_until

from ti_flax.data.prompts.templates import training_prompts
from ti_flax.data.training_prompts import PromptSource, chosen_templates, make_prompts, read_captions
from ti_flax.errors import CheckpointError, ConfigError, DataError
from ti_flax.models.tokenizer import encode_prompts
from ti_flax.run import resume
from ti_flax.run import train as run
from ti_flax.run.inputs import load_inputs
from ti_flax.training.checkpoint import checkpoint_steps

CAPTIONS = ["red, blue, a toy, table", "cat, house, red car", "the <thing>, dog, blue, red"]
LINES = "".join(f"{index}.png|{caption}\n" for index, caption in enumerate(CAPTIONS))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("prompts")
    write_folder(place / "model")
    write_images(place / "pictures")
    for index, caption in enumerate(CAPTIONS):
        (place / "pictures" / f"{index}.txt").write_text(caption)
        (place / "pictures" / f"{index}.tags").write_text(f"tags {index}")
    (place / "captions").write_text(LINES)
    (place / "templates").write_text("a photo of [name], [filewords]\na {}\n")
    return place


def configure(place, output="out", **changes):
    return tiny_run.configure(place, place / output, **{"max_train_steps": 4} | changes)


def prompts_of(plain, place, **changes):
    config = configure(place, **changes)
    templates = chosen_templates(config.prompts, config.concept.learnable_property)
    known, seed = (plain.tokenizer, plain.concept, plain.images), config.training.seed
    return make_prompts([PromptSource(config.prompts, templates)], *known, seed=seed)


def decoded(plain, rows):
    """The texts of token ids, as the tokenizer reads them back."""
    return [plain.tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]


@pytest.fixture(scope="module")
def plain(place):
    return load_inputs(configure(place))


def test_without_captions_the_table_is_one_group_of_templates(plain):
    prompts = training_prompts("<thing> <thing>_1", "object")
    expected = encode_prompts(plain.tokenizer, prompts, concept=plain.concept)
    np.testing.assert_array_equal(plain.examples.token_ids, expected[None])
    np.testing.assert_array_equal(plain.examples.buckets[0].prompts, [0, 0, 0])


FILES = {"captions": "files"}


@pytest.mark.parametrize(
    ("base", "change", "shape"),
    [
        ({}, {"templates": "style"}, (1, 19)),
        ({}, {"learnable_property": "style"}, (1, 19)),
        ({}, FILES, (3, 27)),
        ({}, {"captions": "filename", "filename_pattern": "."}, (3, 27)),
        ({}, {"captions": "caption_file", "caption_file": "captions"}, (3, 27)),
        (FILES, {"template_file": "templates"}, (3, 2)),
        (FILES, {"templates": "caption", "caption_prefix": "<thing>"}, (3, 1)),
        (FILES, {"learnable_property": "style"}, (3, 27 - 8)),
        (FILES, {"caption_extension": ["tags"]}, (3, 27)),
        (FILES, {"caption_prefix": "house,"}, (3, 27)),
        (FILES, {"caption_suffix": ", house"}, (3, 27)),
        (FILES, {"shuffle_caption": True}, (3, 999)),
        (FILES, {"caption_tag_dropout_rate": 0.5}, (3, 999)),
        (FILES, {"caption_dropout_rate": 0.5}, (3, 999)),
        (FILES | {"shuffle_caption": True}, {"keep_tokens": 2}, (3, 999)),
        (FILES | {"shuffle_caption": True}, {"caption_separator": "a"}, (3, 999)),
        (FILES | {"shuffle_caption": True}, {"seed": 4}, (3, 999)),
        (FILES | {"caption_suffix": "{red|blue}"}, {"enable_wildcard": True}, (3, 999)),
    ],
)
def test_an_option_changes_the_prompts(place, plain, base, change, shape):
    base, change = (
        {name: str(place / value) if name.endswith("_file") else value for name, value in each.items()}
        for each in (base, change)
    )
    before, after, again = (prompts_of(plain, place, **each) for each in (base, base | change, base | change))
    assert after.token_ids.shape == (*shape, 77)
    assert before.token_ids.tobytes() != after.token_ids.tobytes()
    np.testing.assert_array_equal(again.token_ids, after.token_ids)


def test_captions_change_the_prompts_and_nothing_else(place, plain):
    drawn = {"shuffle_caption": True, "caption_tag_dropout_rate": 0.1, "caption_dropout_rate": 0.1}
    made = load_inputs(configure(place, captions="files", **drawn, enable_wildcard=True))
    then, now = plain.fingerprint, made.fingerprint
    assert then.pop("prompts") != now.pop("prompts") and then == now
    for old, new in zip(plain.examples.buckets, made.examples.buckets, strict=True):
        np.testing.assert_array_equal(old.posteriors, new.posteriors)
        np.testing.assert_array_equal(old.sample_indices, new.sample_indices)


def test_each_image_takes_its_own_captions(place, plain, capsys):
    token_ids, groups, _ = prompts_of(plain, place, captions="files")
    np.testing.assert_array_equal(groups, [0, 1, 2])
    texts = decoded(plain, token_ids[1])
    assert texts[0].startswith("a photo of a ") and texts[0].replace(" ", "").endswith("cat,house,redcar")
    (alone,) = set(decoded(plain, token_ids[2]))
    assert alone.startswith("the") and alone.replace(" ", "").endswith(",dog,blue,red")
    assert (
        "prompts   3 captions x 27 templates, 1 of the captions name the word: 27 variants of each, "
        "such as 'a photo of a <thing>, red, blue, a toy, table'"
    ) in capsys.readouterr().err


def test_how_many_prompts_are_cut_off_is_one_note(place, plain, capsys):
    prompts_of(plain, place, captions="files", caption_suffix="x " * 80)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: the ends")]
    (line,) = notes
    assert line.startswith("note: the ends of 55 of 55 prompts are cut off after 77 tokens, first 'a photo")
    assert line.endswith("of 0.png; a larger max_token_length reads on")
    found = prompts_of(plain, place, captions="files", caption_suffix="x " * 80, max_token_length=150)
    assert found.token_ids.shape[-1] == 154 and "the ends of" not in capsys.readouterr().err


def test_captions_of_the_source(place, plain):
    options = configure(place, captions="metadata").prompts
    given = dataclasses.replace(plain.images, captions=("a", "b", ""))
    assert read_captions(options, given) == ("a", "b", "")
    with pytest.raises(DataError, match="captions metadata: .* found none for 3 of 3, first 0.png"):
        read_captions(options, plain.images)


# Whole runs


SHUFFLED = {"captions": "files", "shuffle_caption": True, "caption_dropout_rate": 0.2}


@pytest.fixture(scope="module")
def whole(place):
    return run.train(configure(place, "whole", **SHUFFLED))


def test_captions_change_the_rows_and_no_other_file(place, whole):
    without = run.train(configure(place, "without"))
    assert learned(without).tobytes() != learned(whole).tobytes()
    names = [{path.name for path in folder.iterdir()} for folder in (without, whole)]
    assert names[0] == names[1]
    for name in ("token_identifier.txt", "type_of_concept.txt"):
        assert (without / name).read_text() == (whole / name).read_text()


def test_a_resumed_run_draws_the_same_prompts(place, tmp_path, whole, monkeypatch, capsys):
    monkeypatch.setattr(resume.secrets, "randbelow", lambda _: 3)
    output = {"output_dir": str(tmp_path), "seed": None} | SHUFFLED
    train_until(configure(place, **output), 2)
    assert checkpoint_steps(tmp_path) == [2]
    monkeypatch.setattr(resume.secrets, "randbelow", lambda _: 5)
    folder = run.train(configure(place, **output, resume_from_checkpoint="latest"))
    assert "resuming from" in capsys.readouterr().err
    assert learned(folder).tobytes() == learned(whole).tobytes()


@pytest.mark.parametrize("changes", [{"seed": 4}, {"shuffle_caption": False}])
def test_resuming_with_other_prompts_is_refused(place, whole, changes):
    with pytest.raises(
        CheckpointError, match="checkpoint-4: expected prompts [0-9a-f]+, found prompts [0-9a-f]+. "
    ):
        run.train(configure(place, "whole", **SHUFFLED | changes, resume_from_checkpoint="latest"))


def test_a_template_of_the_option_takes_the_place_of_the_built_in_ones(plain, place):
    own = {"prompt_template": ["a photo of a {} cat", "[name] here"]}
    texts = decoded(plain, prompts_of(plain, place, **own).token_ids[0])
    assert texts == decoded(
        plain, encode_prompts(plain.tokenizer, ["a photo of a <thing> cat", "<thing> here"])
    )
    with pytest.raises(ConfigError, match=r"^prompt_template: expected \[name\] or {}, where the word goes"):
        configure(place, prompt_template="a cat")
    with pytest.raises(DataError, match="^prompt_template: expected no .filewords. without captions"):
        prompts_of(plain, place, prompt_template="{}, [filewords]")
    with pytest.raises(ConfigError, match="^prompt_template and templates exclude each other"):
        configure(place, prompt_template="a {}", templates="style")
