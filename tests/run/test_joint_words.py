"""Whole runs that learn several words together: rows, files, prompts, and what is the same as with one."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from sdxl_place import write_place
from tiny_folder import write_images
from tiny_run import configure, train_until

from ti_flax.config import RunConfig
from ti_flax.embedding.learned_embeds import add_learned_embeds, learned_embeds_files
from ti_flax.embedding.read import load_embedding, read_embeddings
from ti_flax.errors import CheckpointError, DataError, OutputError, TokenError
from ti_flax.export.hub_files import result_files
from ti_flax.files.written_files import only_run, recorded
from ti_flax.models.stable_diffusion import load_stable_diffusion, token_table
from ti_flax.models.tokenizer import load_tokenizer
from ti_flax.monitoring.report.facts import RunFacts
from ti_flax.monitoring.row_statistics import read_evaluations
from ti_flax.run import fit
from ti_flax.run import train as run
from ti_flax.run.inputs import load_inputs

WORDS = ("<cat>", "<hat>")
TWO = {"placeholder_token": WORDS, "initializer_token": ("toy", "cat"), "num_vectors": (2, 1)}


def configure_two(place, output, **changes):
    return configure(place, output, **TWO | changes)


@pytest.fixture(scope="module")
def watched(place):
    """A run with all that is shown, and the whole pipeline."""
    shown = {
        "eval_steps": 2,
        "save_steps": 3,
        "validation_prompt": ("a {}", "a <hat>"),
        "validation_steps": 3,
    }
    shown |= {"num_validation_images": 1, "only_save_embeds": False}
    return run.train(configure_two(place, place / "watched", **shown))


@pytest.fixture(scope="module")
def whole(place):
    """The same run with nothing beside it."""
    return run.train(configure_two(place, place / "whole", save_steps=3))


def rows_of(path):
    """`{word: rows}` of a file, by text encoder."""
    return {each.token: each.rows for each in read_embeddings(path)}


def same(one, other):
    return [*one] == [*other] and all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_each_word_learns_its_vectors_and_has_a_file(place, watched):
    found = rows_of(watched / "learned_embeds.safetensors")
    assert {word: rows["text_encoder"].shape for word, rows in found.items()} == {
        "<cat>": (2, 32),
        "<hat>": (1, 32),
    }
    start = load_inputs(configure_two(place, place / "x")).added.start["text_encoder"]
    both = np.concatenate([rows["text_encoder"] for rows in found.values()])
    assert (both != start).any(axis=1).all() and (start[0] == start[1]).all() and (start[1] != start[2]).any()
    for word, name in zip(WORDS, ("cat", "hat"), strict=True):
        alone = load_embedding(watched / f"learned_embeds-{name}.safetensors")
        assert alone.token == word and same(alone.rows, found[word])
    assert all(same(rows, found[word]) for word, rows in rows_of(watched / "learned_embeds.bin").items())
    assert [*rows_of(watched / "learned_embeds-steps-3.safetensors")] == [*WORDS]


def test_the_files_load_back(place, watched):
    diffusers = pytest.importorskip("safetensors.numpy")
    assert [*diffusers.load_file(watched / "learned_embeds-hat.safetensors")] == ["<hat>"]
    tokenizer, widths = load_tokenizer(place / "model"), {"text_encoder": 32}
    rows = add_learned_embeds(tokenizer, watched / "learned_embeds.safetensors", widths=widths)
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer) - 3, len(tokenizer))) == [
        "<cat>",
        "<cat>_1",
        "<hat>",
    ]
    exported = load_stable_diffusion(watched, components=("text_encoder",))
    np.testing.assert_array_equal(token_table(exported.params, "text_encoder")[-3:], rows["text_encoder"])
    assert load_tokenizer(watched).convert_tokens_to_ids("<hat>") == len(tokenizer) - 1


def test_diffusers_loads_each_word(place, watched):
    torch = pytest.importorskip("torch")
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(place / "model")
    found = rows_of(watched / "learned_embeds.safetensors")
    for word, name in zip(WORDS, ("cat", "hat"), strict=True):
        pipeline.load_textual_inversion(str(watched), weight_name=f"learned_embeds-{name}.safetensors")
        ids = pipeline.tokenizer.encode(pipeline.maybe_convert_prompt(word, pipeline.tokenizer))[1:-1]
        loaded = pipeline.text_encoder.get_input_embeddings().weight[torch.tensor(ids)]
        assert loaded.detach().numpy().tobytes() == found[word]["text_encoder"].tobytes()


def test_what_a_run_lists_are_its_files(watched):
    named = {*learned_embeds_files(WORDS, sdxl=False), "learned_embeds-best.safetensors"}
    assert named <= (recorded(watched) or set()) and named <= {path.name for path in watched.iterdir()}
    sent = result_files(watched)
    assert named <= set(sent) and not any("steps" in name for name in sent if name.startswith("learned"))
    assert (watched / "token_identifier.txt").read_text() == "<cat>\n<hat>"
    card, page = ((watched / name).read_text() for name in ("README.md", "report.html"))
    for text in (card, page.replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">")):
        assert 'pipe.load_textual_inversion("learned_embeds-cat.safetensors")' in text
        assert 'pipe.load_textual_inversion("learned_embeds-hat.safetensors")' in text
        assert 'pipe("a photo of a <cat> and <hat>")' in text
    assert '| `<cat>` | 2 | the word "toy" | `learned_embeds-cat.safetensors` |' in card
    cells = re.findall("<td[^>]*>(.*?)</td>", page)
    at = cells.index("&lt;hat&gt;")
    assert cells[at + 1 : at + 3] == ["1", "the word &quot;cat&quot;"]
    facts = RunFacts.read(watched)
    assert (facts.words, facts.token, facts.vectors) == ({"<cat>": 2, "<hat>": 1}, "<cat> and <hat>", 3)


def test_signals_are_those_of_each_word(watched):
    table = read_evaluations(watched / "signals.csv")
    assert [*table[0].rows] == ["cat.1", "cat.2", "hat.1"]
    assert table[0].rows["hat.1"].nearest_words.startswith("cat 1.00")
    assert all(row.cosine_to_start < 1 - 1e-4 for row in table[-1].rows.values())


def test_what_is_beside_the_updates_changes_no_bit(watched, whole):
    for name in learned_embeds_files(WORDS, sdxl=False):
        assert (watched / name).read_bytes() == (whole / name).read_bytes()


def test_a_stopped_run_goes_on_to_the_same_bits(place, whole, tmp_path):
    config = configure_two(place, tmp_path / "out", save_steps=3)
    train_until(config, 4)
    shutil.rmtree(tmp_path / "out" / "checkpoint-4")
    folder = run.train(config.replace(resume_from_checkpoint="latest"))
    for name in (*learned_embeds_files(WORDS, sdxl=False), "learned_embeds-steps-6.safetensors"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    other = config.replace(placeholder_token=("<cat>", "<dog>"), resume_from_checkpoint="latest")
    expected = "concept <cat> <cat>_1 from toy and <hat> from cat.* found concept .* and <dog> from cat"
    with pytest.raises(CheckpointError, match=expected):
        run.train(other)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_prompt_moves_only_the_words_that_it_names(place, tmp_path, monkeypatch, decay):
    for module in (run, fit):
        monkeypatch.setattr(module, "batch_devices", lambda batch: jax.devices()[:1])
    monkeypatch.setattr(run, "batches_at_once", lambda: 1)
    own = {"prompt_template": ("one <cat>", "one <hat>"), "max_train_steps": 1, "adam_weight_decay": decay}
    config = configure_two(place, tmp_path / "out", **own)
    inputs = load_inputs(config)
    (start,) = inputs.added.start.values()
    learned = rows_of(run.train(config) / "learned_embeds.safetensors")
    decayed = start * np.float32(1 - 1e-2 * decay)
    moved = [
        not np.allclose(rows["text_encoder"], before, rtol=1e-6, atol=0)
        for rows, before in zip(learned.values(), (decayed[:2], decayed[2:]), strict=True)
    ]
    assert sorted(moved) == [False, True]  # one sample, one prompt
    if decay == 0:
        still, before = ((learned["<cat>"], start[:2]), (learned["<hat>"], start[2:]))[moved.index(False)]
        assert still["text_encoder"].tobytes() == before.tobytes()


def test_a_word_that_no_prompt_names_is_refused(place, tmp_path):
    config = configure_two(place, tmp_path / "out", prompt_template=("one <cat>",))
    with pytest.raises(
        DataError, match="placeholder_token '<hat>': expected a training prompt that names it"
    ):
        run.train(config)


def test_captions_name_either_word(place, tmp_path):
    lines = ["0.png|a <cat>, red", "1.png|the <HAT>", "2.png|blue"]
    (tmp_path / "captions.txt").write_text("\n".join(lines))
    own = {"captions": "caption_file", "caption_file": str(tmp_path / "captions.txt")}
    inputs = load_inputs(configure_two(place, tmp_path / "out", prompt_template=("{}, [filewords]",), **own))
    first = inputs.concept.token_ids[0]
    rows = [[int(each) - first for each in row[0] if each >= first] for row in inputs.examples.token_ids]
    assert rows == [[0, 1], [2], [0, 1, 2]]
    with pytest.raises(DataError, match="expected <cat> or <hat> in it, as templates caption has no"):
        load_inputs(configure_two(place, tmp_path / "out", templates="caption", **own))


def test_a_word_may_not_be_cut_off(place, tmp_path):
    config = configure_two(place, tmp_path / "out", num_vectors=(40, 40))
    with pytest.raises(TokenError, match="expected all 40 tokens of <hat> within 77 tokens"):
        load_inputs(config)


def test_words_whose_files_would_be_one_are_refused(place, tmp_path):
    for words, said in (
        (("<a b>", "<a-b>"), "which is that of '<a b>'"),
        (("my.cat", "<hat>"), "one that programs take for the name of something else"),
    ):
        with pytest.raises(TokenError, match=said):
            load_inputs(configure_two(place, tmp_path / "out", placeholder_token=words))
    words = ("<best>", "<steps-3>")
    names = learned_embeds_files(words, sdxl=False)
    assert names[1:3] == ("learned_embeds-word-best.safetensors", "learned_embeds-word-steps-3.safetensors")


def test_a_file_of_somebody_else_is_not_replaced(place, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "learned_embeds-hat.safetensors").write_text("mine")
    config = configure_two(place, tmp_path / "out", overwrite_output_dir=True)
    with pytest.raises(OutputError, match="learned_embeds-hat.safetensors: expected no file that this run"):
        run.train(config)
    config = configure_two(
        place,
        tmp_path / "out",
        init_embeds=(None, str(tmp_path / "out" / "learned_embeds-hat.safetensors")),
        initializer_token=("toy", None),
        overwrite_output_dir=True,
    )
    with pytest.raises(OutputError, match="init_embeds .*which it would write over"):
        run.train(config)


def test_another_run_clears_the_files_of_words(place, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "out")
    run.train(
        configure(
            place,
            folder,
            max_train_steps=1,
            overwrite_output_dir=True,
            initializer_mode="random",
            initializer_token=None,
        )
    )
    names = {path.name for path in folder.iterdir() if path.suffix == ".safetensors"}
    assert names == {"learned_embeds.safetensors"}
    with only_run(folder):
        assert "words" not in json.loads((folder / "run.json").read_text())


def test_words_go_on_from_the_files_of_a_joint_run(place, whole, tmp_path):
    begun = {"initializer_token": None, "init_embeds": str(whole / "learned_embeds.safetensors")}
    last = {"learning_rate": 0.0, "max_train_steps": 1}
    again = run.train(configure_two(place, tmp_path / "out", **begun | last))
    assert all(
        same(rows, rows_of(whole / "learned_embeds.safetensors")[word])
        for word, rows in rows_of(again / "learned_embeds.safetensors").items()
    )
    extra = {
        "extra_embeds": (str(whole / "learned_embeds.safetensors"),),
        "prompt_template": ("{} and <cat>",),
    }
    inputs = load_inputs(configure(place, tmp_path / "new", num_vectors=1, **extra))
    assert [word.placeholder_token for word in inputs.frozen_words] == [*WORDS]
    assert inputs.added.trainable["text_encoder"].tolist() == [True, False, False, False]


def test_random_rows_of_words_are_drawn_apart_and_the_first_as_alone(place, tmp_path):
    random = {"initializer_mode": "random", "initializer_token": None, "num_vectors": 1}
    alone = load_inputs(configure(place, tmp_path / "a", placeholder_token="<cat>", **random))
    both = load_inputs(configure_two(place, tmp_path / "b", **random)).added.start["text_encoder"]
    assert both[0].tobytes() == alone.added.start["text_encoder"][0].tobytes()
    assert np.abs(both[0] - both[1]).max() > 1e-3


def test_rules_for_rows_are_those_of_each_vector(place, tmp_path):
    """What is rescaled, pulled and averaged is every row by itself."""
    class_images = write_images(tmp_path / "class", count=1)
    own = {"embedding_norm": "keep", "use_ema": True, "pull_to_start": 0.1, "class_prompt": "a <hat>"}
    config = configure_two(
        place, tmp_path / "out", class_data_dir=str(class_images), **own | {"max_train_steps": 3}
    )
    inputs = load_inputs(config)
    learned = rows_of(run.train(config) / "learned_embeds.safetensors")
    lengths = np.linalg.norm(np.concatenate([rows["text_encoder"] for rows in learned.values()]), axis=1)
    assert np.all(np.abs(lengths / inputs.added.median_norm["text_encoder"] - 1) < 0.05)


def test_one_of_many_concepts_may_have_several_words(place, tmp_path):
    entries = [
        {**TWO, "placeholder_token": ["<cat>", "<hat>"], "max_train_steps": 4, "seed": 1},
        {"name": "dog", "num_vectors": 1, "max_train_steps": 2, "seed": 2},
    ]
    options = configure(place, tmp_path / "many").to_dict() | {"concepts": entries, "concepts_at_once": 2}
    del options["placeholder_token"]
    run.train(RunConfig.from_dict(options | {"train_batch_size": len(jax.devices())}))
    folder = tmp_path / "many" / "cat-hat"
    assert {
        word: rows["text_encoder"].shape
        for word, rows in rows_of(folder / "learned_embeds.safetensors").items()
    } == {"<cat>": (2, 32), "<hat>": (1, 32)}
    alone = rows_of(
        run.train(configure_two(place, tmp_path / "alone", seed=1, max_train_steps=4))
        / "learned_embeds.safetensors"
    )
    for word, name in zip(WORDS, ("cat", "hat"), strict=True):
        found = load_embedding(folder / f"learned_embeds-{name}.safetensors").rows["text_encoder"]
        np.testing.assert_allclose(found, alone[word]["text_encoder"], atol=1e-5)
    board = json.loads((tmp_path / "many" / "concepts.json").read_text())["concepts"]
    assert [(each["name"], each["token"], each["state"]) for each in board] == [
        ("cat-hat", "<cat> and <hat>", "done"),
        ("dog", "<dog>", "done"),
    ]


def test_both_text_encoders_of_sdxl_learn_all_words(tmp_path):
    place = write_place(tmp_path)
    shown = {"eval_steps": 2, "load_best_model_at_end": True, "max_train_steps": 4}
    folder = run.train(configure_two(place, tmp_path / "out", **shown))
    names = {path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin")}
    best = {"learned_embeds-best.safetensors", "learned_embeds_2-best.safetensors"}
    assert names == {*learned_embeds_files(WORDS, sdxl=True), *best}
    assert {"cat.safetensors", "learned_embeds-hat_2.safetensors"} < names
    found = rows_of(folder / "learned_embeds.safetensors")
    assert [rows.shape for rows in found["<cat>"].values()] == [(2, 24), (2, 40)]
    for word, name in zip(WORDS, ("cat", "hat"), strict=True):
        for file in (
            f"{name}.safetensors",
            f"learned_embeds-{name}.safetensors",
            f"learned_embeds-{name}_2.safetensors",
        ):
            assert same(load_embedding(folder / file).rows, found[word])
    assert all(
        same(rows, found[word]) for word, rows in rows_of(folder / "learned_embeds-best.safetensors").items()
    )
    assert names <= set(result_files(folder))
    assert [*read_evaluations(folder / "signals.csv")[0].rows][2:4] == ["hat.1", "cat.1_text_encoder_2"]
    assert (
        'load_textual_inversion(\n    "learned_embeds-hat_2.safetensors"'
        in (folder / "README.md").read_text()
    )
