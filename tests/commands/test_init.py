"""`ti-flax init`: what it looks at, the file it writes, and that the file trains."""

import json
import re
import urllib.parse
import urllib.request
from pathlib import Path

import jsonschema
import pytest
from PIL import Image
from tiny_folder import write_images

from ti_flax.commands import init, train
from ti_flax.config import parse_config
from ti_flax.config.presets import PRESETS
from ti_flax.config.schema import config_schema

SD = "stable-diffusion-v1-5/stable-diffusion-v1-5"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty current folder with five square images in `My Cat` beside it."""
    (tmp_path / "here").mkdir()
    write_images(tmp_path / "My Cat", count=5)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def written(*flags, code=0):
    """The values of the file that the command writes, and its text."""
    assert init.main([*flags, "--output", "x.yaml"]) == code
    config = parse_config(["--config", "x.yaml"])
    return config, Path("x.yaml").read_text(encoding="utf-8")


def test_a_file_says_what_the_folder_holds(capsys):
    config, text = written("--object", "../My Cat", "--initializer_token", "cat")
    assert config.concept.words == ("<my-cat>",) and config.concept.initializer_token == ("cat",)
    assert config.concept.learnable_property == "object"
    assert config.model.pretrained_model_name_or_path == SD
    assert config.model.compute_dtype == "bfloat16"
    assert config.training.train_batch_size == 1 and config.training.gradient_accumulation_steps == 4
    assert config.training.max_train_steps == 3000 and config.optimizer.scale_lr
    assert not config.images.center_crop and config.prompts.captions == "none"
    assert config.output.output_dir == "outputs/my-cat"
    assert "these updates show each image about 2400 times" in text
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        "x.yaml: teaches object my-cat from 5 images",
        "Next, see what it would do, then train:",
        "  python train_flax.py --config x.yaml --dry_run",
        "  python train_flax.py --config x.yaml",
    ]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_stands_in_place_of_rate_and_steps(name):
    config, text = written("--object", "../My Cat", "--preset", name)
    assert f"\npreset: {name}\n" in text and all(
        f"{each} is" in text or f" {each} for" in text for each in PRESETS
    )
    values = config.to_dict()
    assert {key: values[key] for key in PRESETS[name]} == dict(PRESETS[name])
    assert config.training.gradient_accumulation_steps == 4


def test_another_preset_is_refused(capsys):
    assert init.main(["--object", "../My Cat", "--preset", "fast"]) == 2
    assert "--preset: expected one of " in capsys.readouterr().err and list(Path().iterdir()) == []


def test_a_word_to_start_from_is_asked_for(capsys):
    config, text = written("--style", "../My Cat")
    assert config.concept.initializer_token == ("painting",)
    assert config.concept.learnable_property == "style"
    assert "such as painting, sketch or cartoon" in text
    assert "Set initializer_token in it to a known word for what it is; now it is 'painting'." in (
        capsys.readouterr().out
    )


def test_the_installed_command_names_itself(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["/usr/bin/ti-flax", "init"])
    written("--object", "../My Cat")
    assert "  ti-flax train --config x.yaml --dry_run\n" in capsys.readouterr().out


def test_editors_find_the_schema_and_the_file_fits_it():
    import yaml

    _, text = written("--object", "../My Cat")
    address = re.fullmatch(r"# yaml-language-server: \$schema=(file://\S+)", text.splitlines()[0])
    assert address is not None
    path = urllib.request.url2pathname(urllib.parse.urlparse(address[1]).path)
    assert json.loads(Path(path).read_text(encoding="utf-8")) == config_schema()
    values = yaml.safe_load(text) | {"learning_rate": 5e-4}
    jsonschema.Draft202012Validator(config_schema()).validate(values)


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ([], {"center_crop": True, "enable_bucket": False, "resolution": 512}),
        (["--sdxl"], {"center_crop": False, "enable_bucket": True, "resolution": 1024, "variant": "fp16"}),
        (
            ["--pretrained_model_name_or_path", "someone/animaginexl"],
            {"resolution": 1024, "gradient_checkpointing": True, "variant": None, "max_train_steps": 500},
        ),
    ],
)
def test_images_that_are_not_square_keep_their_proportions(flags, options):
    Image.new("RGB", (60, 40)).save("../My Cat/wide.png")
    config, _ = written("--object", "../My Cat", *flags)
    values = config.to_dict()
    assert {name: values[name] for name in options} == options


def test_a_model_that_is_here_says_what_it_is(place):
    config, _ = written("--object", "../My Cat", "--pretrained_model_name_or_path", str(place / "model"))
    assert config.images.resolution == 512
    assert init.main(["--object", "../My Cat", "--pretrained_model_name_or_path", "../My Cat"]) == 2


def test_many_images_are_each_shown_often_enough():
    images = init.Images(200, squares=True, captions="none")
    plan = init.Plan("object", "x", "x", SD, False, None, images)
    assert plan.steps == 5000  # x 4 samples = 200 images x 100


def test_captions_are_used_where_every_image_has_one():
    for number in range(4):
        Path(f"../My Cat/{number}.txt").write_text("a cat")
    assert written("--object", "../My Cat")[0].prompts.captions == "none"
    Path("../My Cat/4.caption").write_text("a cat")
    config, _ = written("--object", "../My Cat", "--overwrite")
    assert config.prompts.captions == "files"


def test_captions_of_metadata_are_used():
    lines = [json.dumps({"file_name": f"{number}.png", "text": "a cat"}) for number in range(5)]
    Path("../My Cat/metadata.jsonl").write_text("\n".join(lines))
    assert written("--object", "../My Cat")[0].prompts.captions == "metadata"


def test_nothing_is_replaced_unless_asked(capsys):
    Path("my-cat.yaml").write_text("mine")
    assert init.main(["--object", "../My Cat"]) == 2
    assert Path("my-cat.yaml").read_text() == "mine"
    assert capsys.readouterr().err == (
        "error: my-cat.yaml: expected a new file, found one that is there already. "
        "Name another with --output, or give --overwrite.\n"
    )
    assert init.main(["--object", "../My Cat", "--overwrite"]) == 0
    assert parse_config(["--config", "my-cat.yaml"]).concept.words == ("<my-cat>",)


@pytest.mark.parametrize("output", ["../My Cat.yaml", "deep/er/x.yaml", "../My Cat/x.yaml"])
def test_the_images_are_found_from_any_folder(output, tmp_path, monkeypatch):
    assert init.main(["--object", "../My Cat", "--output", output]) == 0
    file = Path(output).resolve()
    monkeypatch.chdir("/")
    (source,) = parse_config(["--config", str(file)]).images.train_data_dir
    assert Path(source).resolve() == tmp_path / "My Cat"


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("My_Cat 2", "my-cat-2"),
        ("Ünïcode", "ünïcode"),
        ("<cat-toy>", "cat-toy"),
        ("...", "concept"),
        ("x" * 99, "x" * 40),
    ],
)
def test_names(folder, name):
    assert init.name_of(folder) == name


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--object", "nowhere"], "error: nowhere: expected a folder of images, found no such folder\n"),
        (["--style", "."], "error: train_data_dir .: "),
    ],
)
def test_a_folder_without_images_is_refused(flags, message, capsys):
    assert init.main(flags) == 2
    assert capsys.readouterr().err.startswith(message)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "start"),
    [
        ([], "error: missing: --object or --style."),
        (["--object", "a", "--style", "b"], "error: --style and --object exclude each other"),
    ],
)
def test_one_kind_has_to_be_said(flags, start, capsys):
    assert init.main(flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(start)


def test_the_file_trains(place, capsys):
    assert init.main(["--object", "../My Cat", "--initializer_token", "cat"]) == 0
    tiny = ["--pretrained_model_name_or_path", str(place / "model"), "--resolution=32", "--max_train_steps=2"]
    rest = ["--config", "my-cat.yaml", *tiny, "--only_save_embeds", "--eval_steps=0", "--report_to=none"]
    rest += ["--latents_cache_dir", str(place / "cache"), "--mixed_precision=no"]
    assert train.main([*rest, "--dry_run"]) == 0
    assert "5 images: 32 x 32 pixels" in capsys.readouterr().out
    assert train.main(rest) == 0
    assert Path("outputs/my-cat/learned_embeds.safetensors").is_file()
