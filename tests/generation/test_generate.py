"""The script that makes images, from its options to the files it leaves."""

import hashlib
import json
import re
import types

import jax
import numpy as np
import pytest
from generated import ROWS, draw, start
from PIL import Image
from row_trees import tree
from sdxl_rows import sdxl_rows

from ti_flax.embedding.formats import Embedding, embedding_bytes
from ti_flax.embedding.initialization import read_frozen_embeddings
from ti_flax.embedding.learned_embeds import save_learned_embeds, save_words
from ti_flax.errors import TiFlaxError
from ti_flax.generation import generate as generation
from ti_flax.generation.generator import ImageGenerator, on_all
from ti_flax.generation.image_grid import image_grid_of
from ti_flax.models.stable_diffusion import load_stable_diffusion
from ti_flax.training.devices import local_copies, replicate

pytestmark = pytest.mark.usefixtures("no_compilation_twice")
# What the Web UI takes an image's last line of text apart with (modules/infotext_utils.py).
PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def test_a_grid_has_a_row_for_each_prompt(place, tmp_path, one_device):
    image = draw(place, tmp_path / "new" / "a.png", "--prompt", "a cat")
    assert image.shape == (32, 32, 3)
    assert (image[:16] != image[16:]).any() and (image[:, :16] != image[:, 16:]).any()


def test_what_changes_the_image_and_what_does_not(place, tmp_path, one_device):
    embeds = ["--learned_embeds", place / "thing.safetensors"]
    plain = draw(place, tmp_path / "a.png")
    assert (plain == draw(place, tmp_path / "a.png")).all()
    for other in (embeds, ["--negative_prompt", "red"], ["--guidance_scale", "1"], ["--seed", "5"]):
        assert (plain != draw(place, tmp_path / "a.png", *other)).any(), other


def test_the_second_seed_is_the_next_one(place, tmp_path, one_device):
    first = draw(place, tmp_path / "a.png")
    second = draw(place, tmp_path / "a.png", "--seed", "1")
    assert (first[:, 16:] == second[:, :16]).all()


def test_embeddings_of_every_form_draw_the_same(place, tmp_path, one_device, capsys):
    expected = draw(place, tmp_path / "a.png", "--learned_embeds", place / "thing.safetensors")
    assert "note" not in capsys.readouterr().err
    for name in ("webui.pt", "webui.png"):
        assert (draw(place, tmp_path / "a.png", "--learned_embeds", place / name) == expected).all()
    for name in ("kohya.pt", "onetrainer.safetensors", "gs.pt"):
        for entry in (f"<thing>={place / name}", f"{place / name}=<thing>"):
            assert (draw(place, tmp_path / "a.png", "--learned_embeds", entry) == expected).all()
        named = ["--learned_embeds", place / name, "--placeholder_token", "<thing>"]
        assert (draw(place, tmp_path / "a.png", *named) == expected).all()
    # Without a word the file's name is one.
    flags = ["--learned_embeds", place / "onetrainer.safetensors"]
    assert (draw(place, tmp_path / "a.png", *flags, prompt="a onetrainer") == expected).all()
    draw(place, tmp_path / "a.png", *flags)
    assert "note: no prompt has onetrainer, the word of" in capsys.readouterr().err


def test_an_output_embedding_of_onetrainer_draws_beside_others(place, tmp_path, one_device):
    """Zeros for what the text encoder reads draw something else than its vectors behind it."""
    behind = {"text_encoder": ROWS * 20}
    for name, more in (("nothing", {}), ("output", {"behind": behind})):
        made = Embedding(name, name, {"text_encoder": ROWS * 0}, **more)
        (tmp_path / f"{name}.safetensors").write_bytes(embedding_bytes(made, "onetrainer", ".safetensors"))
    embeds = [
        "--learned_embeds",
        place / "thing.safetensors",
        "--learned_embeds",
        tmp_path / "nothing.safetensors",
    ]
    plain = draw(place, tmp_path / "a.png", *embeds, prompt="a <thing>")
    nothing = draw(place, tmp_path / "a.png", *embeds, prompt="a <thing> nothing")
    embeds[-1] = tmp_path / "output.safetensors"
    # With vectors behind the encoder it is another program, so the last bit may differ.
    assert farthest(draw(place, tmp_path / "a.png", *embeds, prompt="a <thing>"), plain) <= 1
    assert farthest(draw(place, tmp_path / "a.png", *embeds, prompt="a <thing> output"), nothing) > 4


def farthest(image, other):
    """The largest difference between two images, of 255."""
    return np.abs(image.astype(int) - other).max()


def test_a_file_of_several_words_stands_for_all_of_them(place, tmp_path, one_device, capsys):
    both = [f for name in ("thing.safetensors", "other.bin") for f in ("--learned_embeds", place / name)]
    expected = draw(place, tmp_path / "a.png", *both, prompt="a <thing> and <other>")
    save_words(tmp_path / "two.safetensors", {"<other>": ROWS[:1] * 2, "<thing>": ROWS})
    joint = ["--learned_embeds", tmp_path / "two.safetensors"]
    assert (draw(place, tmp_path / "a.png", *joint, prompt="a <thing> and <other>") == expected).all()
    expected = draw(place, tmp_path / "a.png", *both[:2])
    assert (draw(place, tmp_path / "a.png", *joint) == expected).all()
    renamed = ["--learned_embeds", f"<thing>={tmp_path / 'two.safetensors'}"]
    assert (draw(place, tmp_path / "a.png", *renamed) == expected).all()
    capsys.readouterr()
    draw(place, tmp_path / "a.png", *joint)
    assert "no prompt has" not in capsys.readouterr().err
    draw(place, tmp_path / "a.png", *joint, prompt="a cat")
    assert capsys.readouterr().err.count("no prompt has") == 2


def test_a_folder_stands_for_the_embedding_in_it(place, tmp_path, one_device):
    expected = draw(place, tmp_path / "a.png", "--learned_embeds", place / "thing.safetensors")
    save_learned_embeds(tmp_path / "run" / "learned_embeds.bin", "<thing>", ROWS)
    assert (draw(place, tmp_path / "a.png", "--learned_embeds", tmp_path / "run") == expected).all()


def test_an_image_names_every_file_of_an_embedding(place, tmp_path):
    save_learned_embeds(tmp_path / "learned_embeds.bin", "<xl>", sdxl_rows())
    embeddings = read_frozen_embeddings([str(tmp_path), str(place / "other.bin")])
    model = types.SimpleNamespace(pretrained_model_name_or_path="models/xl", clip_skip=0)
    base, request = types.SimpleNamespace(file=None), types.SimpleNamespace(model=model)
    named = generation._provenance(base, request, embeddings).embeddings
    names = ("learned_embeds.bin", "learned_embeds_2.bin")
    digests = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in names]
    pair = [("<xl>", name, digest) for name, digest in zip(names, digests, strict=True)]
    assert named[:2] == pair and [each[:2] for each in named[2:]] == [("<other>", "other.bin")]


def test_a_prompt_may_spell_the_word_as_the_tokenizer_reads_it(place, tmp_path, one_device, capsys):
    embeds = ["--learned_embeds", place / "thing.safetensors"]
    expected = draw(place, tmp_path / "a.png", *embeds, prompt="a <thing>, red")
    assert (draw(place, tmp_path / "a.png", *embeds, prompt="a <THING>, red") == expected).all()
    renamed = ["--learned_embeds", f"<The  Thing>={place / 'thing.safetensors'}"]
    assert "note" not in capsys.readouterr().err
    assert (draw(place, tmp_path / "a.png", *renamed, prompt="a <the thing>, red") == expected).all()
    err = capsys.readouterr().err
    assert (
        "note: --learned_embeds '<The  Thing>' is stored as '<the thing>', as the tokenizer reads both" in err
    )
    assert "no prompt has" not in err


def test_several_embeddings_at_once(place, tmp_path, one_device):
    both = [f for name in ("thing.safetensors", "other.bin") for f in ("--learned_embeds", place / name)]
    one = draw(place, tmp_path / "a.png", *both[:2])
    assert (draw(place, tmp_path / "a.png", *both) == one).all()
    two = draw(place, tmp_path / "a.png", *both, prompt="a <thing> <other>")
    assert (two != one).any()
    swapped = draw(place, tmp_path / "a.png", *both[2:], *both[:2], prompt="a <thing> <other>")
    assert (swapped == two).all()


def test_compare_draws_both_from_the_same_seeds(place, tmp_path, one_device):
    embeds = ["--learned_embeds", place / "thing.safetensors"]
    start(place, "--prompt", "a <thing>", *embeds, "--compare", "--output_dir", tmp_path / "both")
    start(place, "--prompt", "a <thing>", *embeds, "--output_dir", tmp_path / "with")
    start(place, "--prompt", "a <thing>", "--output_dir", tmp_path / "without")

    def files(name, like):
        return [np.asarray(Image.open(path)) for path in sorted((tmp_path / name).glob(like))]

    names = ["00001-0-without.png", "00001-0.png", "00002-1-without.png", "00002-1.png", "grid.png"]
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == names
    assert np.array_equal(files("both", "*[01].png"), files("with", "0*.png"))
    assert np.array_equal(files("both", "*-without.png"), files("without", "0*.png"))
    grid = np.asarray(Image.open(tmp_path / "both" / "grid.png"))
    # Two rows of enlarged images, each beside its name.
    assert grid.shape == (12 + 112 + 4 + 112 + 12, 12 + 150 + 12 + 112 + 4 + 112 + 12, 3)


def test_prompts_of_a_file(place, tmp_path, one_device):
    lines = ["# a comment", "", "a cat", "a dog --n red --w 32 --h 16 --d 7 --s 3 --l 2.5 --ss ddim"]
    (tmp_path / "prompts.txt").write_text("\n".join(lines))
    start(place, "--prompt_file", tmp_path / "prompts.txt", "--output_dir", tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["00001-0.png", "00002-1.png", "00003-7.png", "00004-8.png", "grid.png"]
    with Image.open(tmp_path / "out" / "grid.png") as grid:
        assert grid.size == (64, 32)
    shown = ("prompt", "negative_prompt", "seed", "steps", "sampler", "guidance_scale")
    with Image.open(tmp_path / "out" / "00003-7.png") as dog:
        assert dog.size == (32, 16)
        assert [dog.text[name] for name in shown] == ["a dog", "red", "7", "3", "ddim", "2.5"]


def test_a_image_says_how_it_was_made(place, tmp_path, one_device):
    import hashlib

    flags = ["--learned_embeds", place / "thing.safetensors", "--negative_prompt", "red: a, b"]
    start(place, "--prompt", "a <thing>\nin Köln 猫", *flags, "--output_dir", tmp_path)
    with Image.open(tmp_path / "00002-1.png") as image:
        texts = image.text
    digest = hashlib.sha256((place / "thing.safetensors").read_bytes()).hexdigest()
    assert json.loads(texts["learned_embeds"]) == [
        {"token": "<thing>", "file": "thing.safetensors", "sha256": digest}
    ]
    *prompt, negative, last = texts["parameters"].split("\n")
    assert "\n".join(prompt) == texts["prompt"] == "a <thing>\nin Köln 猫"
    assert negative == "Negative prompt: red: a, b"
    found = {name: json.loads(value) if value[0] == '"' else value for name, value in PARAMETER.findall(last)}
    assert found.pop("Version").startswith("ti_flax ")
    assert found == {
        "Steps": "2",
        "Sampler": "DPM++ 2M",
        "CFG scale": "7.5",
        "Seed": "1",
        "Size": "16x16",
        "Model": "model",
        "TI hashes": f"<thing>: {digest[:12]}",
    }


def test_no_file_is_replaced_unasked(place, tmp_path, one_device, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "00041-5.png").write_bytes(b"mine")
    for count in (1, 2):
        start(place, "--prompt", "a", "--output_dir", ".")
        assert len(list(tmp_path.glob("0*.png"))) == 1 + 2 * count
    assert (tmp_path / "00041-5.png").read_bytes() == b"mine" and (tmp_path / "00045-1.png").exists()
    assert sorted(path.name for path in tmp_path.glob("g*")) == ["grid-2.png", "grid.png"]
    for name in ("pictures.png", "pictures-2.png"):
        start(place, "--prompt", "a")
        assert capsys.readouterr().out.splitlines()[-1].startswith(f"{name}: 1 x 2 images of 16 x 16")
    with pytest.raises(TiFlaxError, match="pictures.png: expected a new file.*--overwrite"):
        start(place, "--prompt", "a", "--output", "pictures.png")
    start(place, "--prompt", "a", "--output", "pictures.png", "--overwrite")


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--learned_embeds", "{}/wide.safetensors"], r"\(32 wide\), found one for Stable Diffusion 1.x"),
        (["--learned_embeds", "{}/xl.safetensors"], r"found one for SDXL \(32 and 32 wide\)"),
        (["--learned_embeds", "{}/known.safetensors"], "--learned_embeds 'cat</w>': expected a new word"),
        (["--learned_embeds", "{}/nothing"], "--learned_embeds .*expected an embedding file, found No such"),
        (["--learned_embeds", "cat={}/gs.pt"], "--learned_embeds 'cat': expected a new word"),
        (
            ["--learned_embeds", "{}/thing.safetensors", "--learned_embeds", "{}/webui.pt"],
            "'<thing>': expected .* nothing else goes by, found it twice. .*_embeds takes TOKEN=FILE",
        ),
        (
            ["--learned_embeds", "{}/thing.safetensors", "--learned_embeds", "{}/part.bin"],
            "--learned_embeds '<thing>-2': expected a word .*, found '<thing>' beside it",
        ),
        (
            [
                "--learned_embeds",
                "{0}/gs.pt",
                "--learned_embeds",
                "{0}/other.bin",
                "--placeholder_token",
                "x",
            ],
            "--placeholder_token: expected one --learned_embeds to name, found 2. .* TOKEN=FILE",
        ),
        (
            ["--learned_embeds", "<a>={}/gs.pt", "--placeholder_token", "<b>"],
            "--placeholder_token: expected to be left out beside --learned_embeds TOKEN=FILE, found both",
        ),
        (
            ["--seed", str(2**63)],
            "--seed: expected a number up to 4611686018427387904, found 9223372036854775808",
        ),
        (["--resolution", str(2**30)], "up to 16384, found 1073741824. The nearest is 16384"),
        (["--placeholder_token", "x"], "one --learned_embeds to name, found 0"),
        (["--compare"], "--compare: expected --learned_embeds to leave out and put in, found none"),
        (
            ["--resolution", "15"],
            "--resolution: expected sides that are a multiple of 4, .* found 15. The nearest are 12 and 16",
        ),
        (["--num_images", "0"], "--num_images: expected 1 or more"),
        (["--batch_size", "0"], "--batch_size: expected 1 or more"),
        (["--num_inference_steps", "0"], "--num_inference_steps: expected 1 or more"),
        (["--num_inference_steps", "1001"], "1 to 1000"),
        (
            ["--prompt_file", "{}/none.txt"],
            "prompt_file .*none.txt: expected a text file, found No such file",
        ),
        (
            ["--prompt_file", "{}/size.txt"],
            "prompt 'a cat': expected sides that are a multiple of 4, .* found 15",
        ),
        (
            ["--prompt_file", "{}/sampler.txt"],
            "prompt 'a cat', --ss: expected ddim or dpmsolver.. or euler, found heun",
        ),
    ],
)
def test_mistakes(place, tmp_path, one_device, flags, message):
    (place / "size.txt").write_text("a cat --w 15")
    (place / "sampler.txt").write_text("a cat --ss heun")
    with pytest.raises(TiFlaxError, match=message) as caught:
        draw(place, tmp_path / "a.png", *(flag.format(place) for flag in flags))
    assert not (tmp_path / "a.png").exists() and "\n" not in str(caught.value)


def test_a_prompt_is_needed(place):
    with pytest.raises(TiFlaxError, match="--prompt: expected a prompt, or --prompt_file, found neither"):
        start(place)


def test_a_prompt_that_is_cut_off_is_told(place, tmp_path, one_device, capsys):
    flags = ["--prompt", "red " * 76, "--negative_prompt", "blue " * 90, "--num_images", "1"]
    draw(place, tmp_path / "a.png", *flags, prompt="cat " * 80)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "cut off" in line]
    assert line.startswith(("note: prompt 'red red", "note: prompt 'cat cat"))
    assert line.endswith(" (so are 2 more); set --max_token_length to 150, or to any")


def test_the_number_of_devices_and_the_batch_change_rounding_alone(place, tmp_path, monkeypatch):
    flags = ["--learned_embeds", place / "thing.safetensors", "--num_images", "5", "--compare"]
    found = []
    for devices, batch in ((1, 10), (8, 1)):
        monkeypatch.setattr(jax, "local_devices", lambda count=devices: jax.devices()[:count])
        found.append(draw(place, tmp_path / "a.png", *flags, "--batch_size", batch).astype(int))
    assert np.ptp(found[0]) > 50
    for other in found[1:]:
        assert np.abs(other - found[0]).max() <= 1


def test_the_last_batch_is_as_large_as_the_others(place, tmp_path, one_device, kept):
    draw(place, tmp_path / "a.png")
    (generator,) = (made for key, made in kept.items() if ("steps", 2) in key and len(made_on(key)) == 1)
    before = generator._draw._cache_size()
    flags = ["--num_images", "5", "--batch_size", "3", "--prompt", "a cat"]
    together = draw(place, tmp_path / "a.png", *flags)
    assert generator._draw._cache_size() == before + 1
    assert np.ptp(together[:, -16:]) > 0 and (together[:16] != together[16:]).any()


def made_on(key):
    return dict(key)["devices"]


def test_devices_share_one_compilation_a_shape(place):
    devices = jax.devices()[:2]
    model = load_stable_diffusion(place / "model")
    generator = ImageGenerator(model, first_added_id=500, steps=2, devices=devices)
    params = on_all(model.params, devices)
    ids = np.ones((4, 77), np.int32)
    for count in (4, 3, 4):
        images = generator.generate(
            params,
            tree(np.zeros((1, 32), np.float32)),
            prompt_ids=ids[:count],
            negative_ids=ids[:count],
            seeds=range(count),
            size=(16, 16),
        )
        assert images.shape == (count, 16, 16, 3)
    assert generator._draw._cache_size() == 1


def test_copies_that_a_run_has_on_its_devices_draw_the_same_images(place):
    model, ids = load_stable_diffusion(place / "model"), np.full((3, 77), 5, np.int32)
    given = {"prompt_ids": ids, "negative_ids": ids - 1, "seeds": range(3), "size": (16, 16)}
    rows = tree(np.zeros((1, 32), np.float32))
    alone = ImageGenerator(model, first_added_id=500, steps=2).generate(model.params, rows, **given)
    copies = replicate(model.params, jax.devices())
    for count in (1, 3, len(jax.devices())):
        devices = jax.devices()[:count]
        params = local_copies(copies, devices)
        leaf = jax.tree.leaves(params)[0]
        assert leaf.sharding.device_set == set(devices) and leaf.shape[0] == count
        generator = ImageGenerator(model, first_added_id=500, steps=2, devices=devices, copies=True)
        found = generator.generate(params, rows, **given).astype(int)
        assert found.shape == alone.shape and np.abs(found - alone).max() <= 1
    assert np.ptp(alone[0]) > 10 and (alone[0] != alone[1]).any()


def test_a_grid_that_is_not_full_is_white_there():
    grid = np.asarray(image_grid_of(np.zeros((3, 2, 2, 3), np.uint8)))
    assert grid.shape == (4, 4, 3)
    assert (grid[2:, 2:] == 255).all() and (grid[:2] == 0).all() and (grid[2:, :2] == 0).all()
