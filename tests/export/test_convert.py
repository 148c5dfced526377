"""The script that converts embedding files and shows what is in them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sdxl_rows import FIRST, SECOND, same, sdxl_rows, write_pair
from tiny_folder import write_folder

from ti_flax.commands import convert as convert_embeds
from ti_flax.embedding.inspect import Model, describe_embeddings
from ti_flax.embedding.learned_embeds import save_learned_embeds, write_learned_embeds
from ti_flax.embedding.read import load_embedding
from ti_flax.embedding.vocabulary import Vocabulary
from ti_flax.errors import TiFlaxError
from ti_flax.export.convert import other_forms

ROWS = np.random.default_rng(0).normal(size=(3, 768)).astype(np.float32)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_learned_embeds(tmp_path / "cat.safetensors", "<my-cat>", ROWS)
    return tmp_path


def run(capsys, *arguments):
    convert_embeds.run(convert_embeds.parse_arguments([str(argument) for argument in arguments]))
    return capsys.readouterr().out.strip()


def safetensors(path, metadata=None, **tensors):
    from safetensors.numpy import save_file

    save_file(tensors, path, metadata=metadata)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["a.bin"], "a.bin: diffusers form, token <my-cat>, 3 vectors of 768 numbers in float32. The word in "
         "prompts is <my-cat>."),
        (["a.pt"], "a.pt: automatic1111 form, .* The word in prompts is the file's name, a."),
        (["a.png"], "a.png: automatic1111 form, .* The word in prompts is <my-cat>."),
        (["a.png", "--name", "cat"], "a.png: automatic1111 form, .* The word in prompts is cat."),
        (["a.pt", "--to", "rinongal"], r"a.pt: rinongal form, .* The word in prompts is \*."),
        (["a.safetensors", "--to", "kohya", "--dtype", "float16"], "kohya form, .* in float16"),
        (["a.bin", "--token", "<else>"], "diffusers form, token <else>, "),
        (["a.bin", "--token", "<My-Dog>"], r"token <my-dog> \(for <My-Dog>, as diffusers finds several "
         r"vectors only so\), 3 vectors .* The word in prompts is <my-dog>."),
    ],
)  # fmt: skip
def test_what_was_written_is_said(place, capsys, flags, said):
    import re

    assert re.search(said, run(capsys, "cat.safetensors", *flags))
    dtype = np.float16 if "float16" in flags else np.float32
    assert (
        load_embedding(place / flags[0]).rows["text_encoder"].tobytes()
        == ROWS.astype(dtype).astype(np.float32).tobytes()
    )


@pytest.mark.parametrize("form", ["invoke", "onetrainer"])
def test_the_line_at_the_end_of_a_run_is_a_command_for_tools_that_need_another_form(place, capsys, form):
    import shlex

    import embedding_consumers

    (place / "cat.safetensors").rename(place / "learned_embeds.safetensors")
    (line,) = other_forms(place, ["<My Cat>: $(x)"])
    before, _, after = line.removeprefix("for InvokeAI: ").partition(" --to invoke; for OneTrainer: ")
    assert after == "--to onetrainer"
    words = shlex.split(before)
    assert words[:2] == ["python", "scripts/convert_embeds.py"] and words[3] == "My-Cat-x.safetensors"
    run(capsys, *words[2:], "--to", form)
    pytest.importorskip("torch")
    read = embedding_consumers.invoke if form == "invoke" else embedding_consumers.onetrainer
    assert read(place / words[3]).tobytes() == ROWS.tobytes()
    with pytest.raises((AssertionError, KeyError)):
        read(place / "learned_embeds.safetensors")


def test_the_line_at_the_end_of_a_run_for_sdxl_names_the_file_that_is_there(place):
    write_learned_embeds(place / "run", {"<My Cat>": sdxl_rows()})
    (line,) = other_forms(place / "run", ["<My Cat>"], sdxl=True)
    programs, _, path = line.partition(": ")
    assert programs == "for the Web UI, Forge, ComfyUI, InvokeAI, kohya's scripts and OneTrainer"
    assert path.endswith("My-Cat.safetensors") and same(load_embedding(Path(path)).rows, sdxl_rows())


def test_a_chain_through_every_form_keeps_word_and_bits(place, capsys):
    steps = [
        "1.bin",
        "2.pt",
        "3.png",
        "4.safetensors --to kohya",
        "5.png",
        "6.safetensors --to automatic1111",
    ]
    last = "cat.safetensors"
    for step in steps:
        run(capsys, last, *step.split())
        last = step.split()[0]
    found = load_embedding(place / last)
    assert found.token == "<my-cat>" and found.rows["text_encoder"].tobytes() == ROWS.tobytes()


def test_a_file_without_a_word_goes_by_its_name(place, capsys):
    safetensors(place / "tabby.safetensors", emp_params=ROWS)
    said = run(capsys, "tabby.safetensors", "tabby.bin")
    assert "token tabby (the file's name, as it holds no word)" in said
    assert load_embedding(place / "tabby.bin").token == "tabby"
    assert "(the file's name" not in run(capsys, "tabby.safetensors", "b.bin", "--token", "<tabby>")


def test_one_of_several_is_taken_out(place, capsys):
    safetensors(place / "both.safetensors", **{"<a>": ROWS, "<b>": ROWS + 1})
    run(capsys, "both.safetensors", "b.bin", "--token", "<b>")
    found = load_embedding(place / "b.bin")
    assert found.token == "<b>" and found.rows["text_encoder"].tobytes() == (ROWS + 1).tobytes()


def test_a_file_for_sdxl_stays_one(place, capsys):
    second = np.ones((3, 1280), np.float32)
    safetensors(place / "xl.safetensors", clip_l=ROWS, clip_g=second)
    said = run(capsys, "xl.safetensors", "again.safetensors")
    assert "kohya form, token xl" in said and "3 vectors of 768 and 1280 numbers" in said
    found = load_embedding(place / "again.safetensors")
    assert found.kind == "sdxl" and found.token == "xl" and (found.rows["text_encoder_2"] == second).all()
    assert found.details["modelspec.architecture"] == "stable-diffusion-xl-v1-base/textual-inversion"


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_pair_for_sdxl_there_and_back(place, capsys, suffix):
    rows = sdxl_rows()
    safetensors(place / "onetrainer.safetensors", clip_l=rows[FIRST], clip_g=rows[SECOND])
    target = place / "xl" / f"learned_embeds-steps-500{suffix}"
    second = target.with_name(f"learned_embeds_2-steps-500{suffix}")
    said = run(capsys, "onetrainer.safetensors", target, "--to", "diffusers", "--token", "<cat>")
    assert said == (
        f"{target} and {second}: diffusers form, token <cat>, 3 vectors of 768 and 1280 numbers in float32. "
        "The word in prompts is <cat>."
    )
    for given in (target, second):
        said = run(capsys, given, "back.safetensors", "--overwrite")
        assert said.startswith("back.safetensors: kohya form, token <cat>, 3 vectors of 768 and 1280")
        found = load_embedding(place / "back.safetensors")
        assert found.kind == "sdxl" and found.token == "<cat>" and same(found.rows, rows)
    with pytest.raises(TiFlaxError, match=f"learned_embeds-steps-500{suffix}: expected a new file"):
        run(capsys, "onetrainer.safetensors", target, "--to", "diffusers")


def test_an_output_embedding_stays_in_onetrainers_form(place, capsys):
    rows = sdxl_rows(2)
    nothing = {"clip_l": rows[FIRST] * 0, "clip_g": rows[SECOND] * 0}
    behind = {"clip_l_out": rows[FIRST], "clip_g_out": rows[SECOND]}
    safetensors(place / "out.safetensors", **nothing, **behind)
    with pytest.raises(TiFlaxError, match="found an output embedding of OneTrainer, whose vectors all go be"):
        run(capsys, "out.safetensors", "b.safetensors")
    run(capsys, "out.safetensors", "b.safetensors", "--to", "onetrainer")
    assert same(load_embedding(place / "b.safetensors").behind, rows)
    shown = run(capsys, "--inspect", "out.safetensors")
    assert "behind      takes the place of the text encoder's output" in shown and "norms clip_l 2" in shown


@pytest.mark.parametrize(
    "step",
    ["1.bin", "1.safetensors", "1.safetensors --to diffusers", "1.pt", "1.pt --to automatic1111"]
    + [f"1.safetensors --to {form}" for form in ("automatic1111", "invoke", "onetrainer")],
)
def test_every_form_for_sdxl_comes_from_every_other(place, capsys, step):
    pytest.importorskip("torch")
    rows = sdxl_rows(2)
    sources = {
        "kohya.safetensors": {"clip_l": rows[FIRST], "clip_g": rows[SECOND]},
        "old.safetensors": {"text_encoders_0": rows[FIRST], "text_encoders_1": rows[SECOND]},
        "one.safetensors": {"clip_l": rows[FIRST], "clip_g": rows[SECOND], "clip_g_out": rows[SECOND]},
    }
    for name, tensors in sources.items():
        safetensors(place / name, **tensors)
    write_pair(place / "learned_embeds.bin", "<cat>", rows)
    run(capsys, "kohya.safetensors", "webui.pt", "--to", "automatic1111")
    for source in (*sources, "learned_embeds.bin", "webui.pt"):
        target, *flags = step.split()
        target = Path(source).stem + target
        said = run(capsys, source, target, *flags)
        assert same(load_embedding(place / target).rows, rows)
        given = "with" if step.endswith("onetrainer") else "without"
        told = f", {given} those that go behind the text encoder" in said
        assert told == (source == "one.safetensors")


@pytest.mark.parametrize(("key", "there"), [("clip_l", "first"), ("clip_g", "second")])
def test_one_text_encoder_of_sdxl_is_told(place, capsys, key, there):
    safetensors(place / "half.safetensors", **{key: sdxl_rows()[FIRST if key == "clip_l" else SECOND]})
    said = run(capsys, "half.safetensors", "a.safetensors")
    assert f"in float32, for SDXL's {there} text encoder alone, which few programs but ComfyUI take" in said
    shown = run(capsys, "--inspect", "half.safetensors")
    assert f"fits        the {there} text encoder of SDXL alone" in shown and f"({key})" in shown


def test_both_files_of_a_pair_are_shown(place, capsys):
    pytest.importorskip("torch")
    rows = sdxl_rows(2)
    second = write_pair(place / "learned_embeds.safetensors", "<cat>", rows)
    for given in ("learned_embeds.safetensors", "learned_embeds_2.safetensors", "."):
        shown = run(capsys, "--inspect", given)
        assert "form        diffusers: the token is the key, a file for each text encoder" in shown
        lines = [line for line in shown.splitlines() if line.startswith("  file  ")]
        assert len(lines) == 2 and f"{second.stat().st_size:,} bytes, sha256 " in lines[1]
        assert (second.name in lines[1]) == (given != second.name)
        assert "widths      768 (clip_l) and 1280 (clip_g)" in shown
        assert "fits        SDXL (768 and 1280 wide)" in shown
        norms = [", ".join(f"{norm:.4g}" for norm in np.linalg.norm(each, axis=1)) for each in rows.values()]
        assert f"norms       clip_l {norms[0]}; clip_g {norms[1]}" in shown


def test_the_nearest_words_of_both_text_encoders(place):
    words = ["cat", "dog", "toy"]
    tables = {name: rows * 0.1 for name, rows in sdxl_rows(3, (32, 48)).items()}
    vocabularies = {
        name: Vocabulary(table, [f"{word}</w>" for word in words], lambda at: words[at])
        for name, table in tables.items()
    }
    model = Model("xl", {FIRST: 32, SECOND: 48}, 3, vocabularies)
    rows = {FIRST: tables[FIRST][:2] * 9, SECOND: tables[SECOND][1:] * 9}
    save_learned_embeds(place / "learned_embeds.bin", "<x>", rows)
    found = [load_embedding(place / "learned_embeds.bin")]
    shown = describe_embeddings(place / "learned_embeds.bin", found, model).splitlines()
    assert "              xl: yes, its text encoders are 32 and 48 wide" in shown
    first, second = shown.index("  clip_l"), shown.index("  clip_g")
    assert [line.split("% of words")[1].split()[:2] for line in shown[first:second] if "% of" in line] == [
        ["cat", "1.00,"],
        ["dog", "1.00,"],
    ]
    assert [line.split("% of words")[1].split()[0] for line in shown[second:] if "% of" in line] == [
        "dog",
        "toy",
    ]
    one = Model("v1", {FIRST: 32}, 3, {FIRST: vocabularies[FIRST]})
    shown = describe_embeddings(place / "learned_embeds.bin", found, one)
    assert "not v1, whose text encoder is 32 wide" in shown and "norms       clip_l" in shown
    save_learned_embeds(place / "one.bin", "<x>", rows[FIRST])
    shown = describe_embeddings(place / "one.bin", [load_embedding(place / "one.bin")], model)
    assert "not xl, whose text encoders are 32 and 48 wide" in shown and "cosine" not in shown


def test_a_image_is_drawn_upon(place, capsys):
    Image.new("RGB", (300, 400), (10, 200, 30)).save(place / "green.jpg")
    run(capsys, "cat.safetensors", "a.png", "--picture", "green.jpg")
    with Image.open(place / "a.png") as made:
        assert made.height == 400 and made.width > 302
        assert np.abs(np.asarray(made.convert("RGB"))[200, made.width // 2] - (10, 200, 30)).max() <= 2


def test_nothing_is_replaced_unasked(place, capsys):
    (place / "a.bin").write_bytes(b"mine")
    with pytest.raises(TiFlaxError, match="a.bin: expected a new file"):
        run(capsys, "cat.safetensors", "a.bin")
    assert (place / "a.bin").read_bytes() == b"mine"
    run(capsys, "cat.safetensors", "a.bin", "--overwrite")
    run(capsys, "a.bin", "a.bin", "--overwrite", "--token", "<x>")
    assert load_embedding(place / "a.bin").token == "<x>"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["cat.safetensors"], "expected IN and OUT, or --inspect FILE, found IN alone"),
        ([], "found neither"),
        (["none.pt", "a.pt"], "none.pt: expected an embedding file, found No such file"),
        (["cat.safetensors", "a.gif"], "a.gif: expected a name that ends in"),
        (
            ["cat.safetensors", "a.pt", "--picture", "x.png"],
            "--picture: expected a .png as the file to write",
        ),
        (
            ["cat.safetensors", "a.png", "--picture", "x.png"],
            "--picture x.png: expected an image, found No su",
        ),
        (["cat.safetensors", "a.pt", "--token", " "], "--token: expected a word, found an empty one"),
        (
            ["large.safetensors", "a.pt", "--dtype", "float16"],
            "numbers that float16 holds, found one of 1e.05",
        ),
        (["cat.safetensors", "a.bin", "--name", "x"], "--name: expected a form .*, found diffusers .bin"),
        (["cat.safetensors", "a.pt", "--to", "kohya", "--name", "x"], "--name: .*, found kohya .pt"),
        (["cat.safetensors", "a.pt", "--variant", "fp16"], "--variant: expected to be given with --inspect"),
        (["--inspect", "cat.safetensors", "--to", "kohya"], "--to: expected to be given without --inspect"),
        (
            ["--inspect", "cat.safetensors", "--overwrite"],
            "--overwrite: expected to be given without --inspect",
        ),
        (["--inspect", "cat.safetensors", "--revision", "x"], "given with --pretrained_model_name_or_path"),
        (["--inspect", "none.pt"], "none.pt: expected an embedding file"),
    ],
)
def test_mistakes_are_one_line(place, capsys, flags, words):
    safetensors(place / "large.safetensors", emb_params=ROWS[:1] * 0 + 1e5)
    with pytest.raises(TiFlaxError, match=words) as caught:
        run(capsys, *flags)
    assert "\n" not in str(caught.value) and not (place / "a.pt").exists()


def test_the_script_needs_no_torch_and_no_jax(place):
    code = "import sys, runpy; sys.argv[0] = 'x'; sys.modules['torch'] = None; sys.modules['jax'] = None\n"
    code += f"runpy.run_path({str(ROOT / 'scripts' / 'convert_embeds.py')!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code, "cat.safetensors", "a.pt"], capture_output=True, text=True, cwd=place
    )
    assert done.returncode == 0 and done.stdout.startswith("a.pt: automatic1111"), done.stderr
    done = subprocess.run(
        [sys.executable, "-c", code, "cat.safetensors", "a.pt"], capture_output=True, text=True, cwd=place
    )
    assert done.returncode == 2 and done.stderr.startswith("error: a.pt: expected a new file")
    assert done.stderr.count("\n") == 1
    done = subprocess.run(
        [sys.executable, "-c", code, "--inspect", "a.pt"], capture_output=True, text=True, cwd=place
    )
    assert done.returncode == 0 and "token       <my-cat>" in done.stdout, done.stderr


def test_what_is_in_a_file_is_shown(place, capsys):
    lines = run(capsys, "--inspect", "cat.safetensors").splitlines()
    assert lines[0] == "cat.safetensors"
    for wanted in (
        "  form        diffusers: the token is the key",
        "  token       <my-cat>",
        "  vectors     3",
        "  width       768",
        "  dtype       float32",
        "  fits        Stable Diffusion 1.x (768 wide)",
    ):
        assert wanted in lines
    norms = ", ".join(f"{norm:.4g}" for norm in np.linalg.norm(ROWS, axis=1))
    assert f"  norms       {norms}" in lines


def test_what_a_file_says_is_shown(place, capsys):
    metadata = {"modelspec.title": "cat\n" * 99, "modelspec.author": "me"}
    safetensors(place / "k.safetensors", metadata, emb_params=ROWS.astype(np.float16))
    shown = run(capsys, "--inspect", "k.safetensors")
    assert "modelspec.author  me" in shown and "dtype       float16" in shown
    assert "token       none in the file; the Web UI takes the file's name, k" in shown
    assert max(map(len, shown.splitlines())) < 140
    safetensors(place / "xl.safetensors", clip_l=ROWS, clip_g=np.ones((3, 1280), np.float32))
    shown = run(capsys, "--inspect", "xl.safetensors")
    assert "768 (clip_l) and 1280 (clip_g)" in shown and "fits        SDXL" in shown
    assert f"; clip_g {', '.join(['35.78'] * 3)}" in shown


def test_a_files_vectors_beside_a_models_words(place, capsys):
    from ti_flax.models.stable_diffusion import load_stable_diffusion
    from ti_flax.models.tokenizer import load_tokenizer

    folder = write_folder(place / "model")
    params = load_stable_diffusion(folder, components=("text_encoder",)).params["text_encoder"]
    table = np.asarray(params["text_model"]["embeddings"]["token_embedding"]["embedding"])
    tokenizer = load_tokenizer(folder)
    cat, dog = (table[tokenizer.convert_tokens_to_ids(f"{word}</w>")] for word in ("cat", "dog"))
    save_learned_embeds(place / "a.bin", "<x>", np.stack([cat, dog * 1000]))
    shown = run(capsys, "--inspect", "a.bin", "--pretrained_model_name_or_path", "model")
    assert "model: yes, its text encoder is 32 wide" in shown
    first, second = shown.splitlines()[-2:]
    assert "  cat 1.00, " in first and "  dog 1.00, " in second and "100 % of words  " in second
    shown = run(capsys, "--inspect", "cat.safetensors", "--pretrained_model_name_or_path", "model")
    assert "not model, whose text encoder is 32 wide" in shown and "cosine" not in shown
