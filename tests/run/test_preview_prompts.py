"""Prompts of previews from a file, with kohya's options behind them."""

import pytest
from many_runs import configure_many
from tiny_run import configure

from ti_flax.config.concept_list import ConceptListError, read_concepts
from ti_flax.errors import ConfigError, DataError
from ti_flax.run.preview_prompts import read_preview_prompts


@pytest.fixture
def read(tmp_path):
    def read(text, **options):
        (tmp_path / "prompts.txt").write_text(text)
        options["validation_prompt_file"] = str(tmp_path / "prompts.txt")
        return read_preview_prompts(configure(tmp_path, tmp_path, **options))

    return read


def test_a_line_is_a_prompt_and_the_word_stands_in_it(read, tmp_path):
    found = read("# previews\n\na {} on a beach\n  the {} # at night\n")
    assert found.texts == ("a <thing> on a beach", "the <thing> # at night")
    assert [(each.negative, each.seed) for each in found.each] == [("", 3)] * 2
    assert found.each[1].where == f"validation_prompt_file {tmp_path}/prompts.txt, line 4"
    assert found.size == (32, 32)


def test_options_hold_for_lines_that_say_nothing(read):
    options = {"validation_negative_prompt": "no {}", "validation_seed": 9, "validation_size": "48x32"}
    found = read("a {}\na {} --n red --d 2\na {} --n\n", **options)
    assert [(each.negative, each.seed) for each in found.each] == [("no <thing>", 9), ("red", 2), ("", 9)]
    assert found.size == (32, 48)
    assert (found.options.validation_negative_prompt, found.options.validation_seed) == (None, None)
    alike = read("a {} --n red --d 2\nb {} --n red --d 2\n", **options).options
    assert (alike.validation_negative_prompt, alike.validation_seed) == ("red", 2)


def test_what_all_lines_say_holds_for_all(read):
    found = read("a {} --w 64 --h 40 --s 9 --l 3 --ss ddim\nb {} --h 40 --w 64 --s 9 --l 3.0 --ss ddim\n")
    assert found.size == (40, 64) and found.options.validation_size == "64x40"
    assert found.options.validation_num_inference_steps == 9
    assert (found.options.validation_guidance_scale, found.options.validation_sampler) == (3.0, "ddim")
    assert read("a {} --w 32\nb {} --h 32\nc {} --s 25\n").size == (32, 32)  # what the options say anyway


def test_without_a_file_the_options_say_all(tmp_path):
    config = configure(tmp_path, tmp_path, validation_prompt=["a {} --d 5", "b"], validation_seed=4)
    found = read_preview_prompts(config)
    assert found.texts == ("a <thing> --d 5", "b") and found.options == config.monitoring
    assert [(each.seed, each.where) for each in found.each] == [(4, "validation_prompt")] * 2
    assert read_preview_prompts(configure(tmp_path, tmp_path)).each == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a {} --w 48\nb {}\n",
            "line 2: expected validation_size 48x32, the first prompt's, as one program draws all, found "
            "32x32. Give all lines the same --w and --h, or none.",
        ),
        ("a {}\nb {} --s 3\n", "line 2: expected validation_num_inference_steps 25, the first prompt's"),
        ("a {}\nb {} --l 3\n", "line 2: expected validation_guidance_scale 7.5, the first prompt's"),
        ("a {}\nb {} --ss ddim\n", "line 2: expected validation_sampler dpmsolver++, the first prompt's"),
        (
            "a {} --w 500\n",
            "line 1, --w and --h: expected sides that are multiples of 8, up to 16384, found 500x32",
        ),
        ("a {} --w 0\n", "line 1, --w and --h: expected sides"),
        ("a {} --s 0\n", "line 1: validation_num_inference_steps: expected a whole number >= 1 and <= 1000"),
        ("a {} --d 4294967296\n", "line 1: validation_seed: expected a whole number >= 0 and <= 4294967295"),
        ("a {} --ss euler_a\n", "found 'euler_a'. Did you mean euler?"),
        ("a {} --x 3\n", "line 1: expected an option out of --n, --w, --h, --d, --s, --l, --ss, found --x"),
        ("# nothing\n", "prompts.txt: expected a prompt a line, found none"),
    ],
)
def test_mistakes_name_the_line(read, text, message):
    with pytest.raises(DataError) as caught:
        read(text)
    assert str(caught.value).startswith("validation_prompt_file ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_it_is_refused_beside_prompts_and_where_it_is_missing(tmp_path):
    with pytest.raises(ConfigError, match="validation_prompt_file and validation_prompt exclude each other"):
        configure(tmp_path, tmp_path, validation_prompt_file="x.txt", validation_prompt="a {}")
    with pytest.raises(DataError, match="validation_prompt_file .*none: expected a text file, found No such"):
        read_preview_prompts(configure(tmp_path, tmp_path, validation_prompt_file=str(tmp_path / "none")))


def test_each_concept_of_a_list_reads_it_with_its_word(tmp_path):
    (tmp_path / "all.txt").write_text("a {}\n")
    (tmp_path / "cat.txt").write_text("the {} --d 1\n")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").touch()
    listed = [{"name": "hat"}, {"name": "cat", "validation_prompt_file": str(tmp_path / "cat.txt")}]
    options = {"validation_prompt_file": str(tmp_path / "all.txt")}
    found = read_concepts(configure_many(tmp_path, tmp_path, listed, **options)).concepts
    assert [read_preview_prompts(each.config).texts for each in found] == [("a <hat>",), ("the <cat>",)]
    listed[1]["validation_prompt_file"] = str(tmp_path / "none.txt")
    with pytest.raises(ConceptListError, match="concept cat .*: validation_prompt_file .*none.txt: expected"):
        read_concepts(configure_many(tmp_path, tmp_path, listed, **options))
