"""A list of concepts: where it comes from, and what each concept is then told."""

import json

import pytest

from ti_flax.config import RunConfig, load_config, parse_config
from ti_flax.config.concept_list import read_concepts
from ti_flax.config.run_config import OPTIONS
from ti_flax.data.sources.find import find_images
from ti_flax.data.sources.table_options import TableOptions
from ti_flax.errors import ConfigError

MODEL = "pretrained_model_name_or_path: model\ninitializer_token: toy\n"
FLAGS = ["--pretrained_model_name_or_path=model", "--initializer_token=toy", "--quiet"]


@pytest.fixture
def write(tmp_path):
    def write_file(name, content="x"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write_file


def listed(*argv):
    return read_concepts(parse_config([*FLAGS, *map(str, argv)]))


def changed(config, *, beside=()):
    """The options of a concept that are not at their defaults, without those that all tests set."""
    usual = {"pretrained_model_name_or_path", "initializer_token", "output_dir", "quiet", *beside}
    values = {name: value for name, value in config.values().items() if value != OPTIONS[name].default}
    return {name: value for name, value in values.items() if name not in usual}


# Where it comes from


def test_a_folder_of_folders_is_a_concept_each(write, tmp_path):
    write("concepts/dog/1.png")
    write("concepts/Cat/images/1.png")
    write("concepts/Cat/concept.yaml", "max_train_steps: 7\nplaceholder_token: <kitty>\n")
    found = listed(f"--concepts={tmp_path / 'concepts'}", "--output_dir=out")
    assert [each.name for each in found.concepts] == ["Cat", "dog"] and found.notes == ()
    cat, dog = (each.config for each in found.concepts)
    images = str(tmp_path / "concepts" / "Cat" / "images")
    assert changed(cat) == {
        "placeholder_token": ("<kitty>",),
        "train_data_dir": (images,),
        "max_train_steps": 7,
    }
    assert changed(dog) == {
        "placeholder_token": ("<dog>",),
        "train_data_dir": (str(tmp_path / "concepts" / "dog"),),
    }
    assert (cat.output.output_dir, dog.output.output_dir) == ("out/Cat", "out/dog")


def test_what_is_no_concept_of_a_folder_is_noted(write, tmp_path):
    write("concepts/cat/1.png")
    write("concepts/.hidden/1.png")
    write("concepts/@eaDir/1.png")
    write("concepts/readme.txt")
    write("concepts/.DS_Store")
    (tmp_path / "concepts" / "empty").mkdir()
    found = listed(f"--concepts={tmp_path / 'concepts'}")
    assert [each.name for each in found.concepts] == ["cat"]
    where = f"concepts {tmp_path / 'concepts'}: passed over "
    assert found.notes == (
        f"{where}2, such as .hidden (hidden or a system's own)",
        f"{where}empty (without anything in them)",
        f"{where}readme.txt (not folders)",
    )


def test_images_of_the_run_do_nothing_beside_a_folder(write, tmp_path):
    write("concepts/cat/1.png")
    write("images/1.png")
    found = listed(f"--concepts={tmp_path / 'concepts'}", f"--train_data_dir={tmp_path / 'images'}")
    assert found.concepts[0].config.images.train_data_dir == (str(tmp_path / "concepts" / "cat"),)
    assert found.notes == (
        "train_data_dir does nothing beside a folder of concepts: each has its own images",
    )


def test_the_reader_of_images_leaves_the_file_of_a_concept_alone(tmp_path):
    from tiny_folder import write_images

    folder = tmp_path / "cat"
    write_images(folder)
    (folder / "concept.yaml").write_text("max_train_steps: 7\n")
    found = find_images(str(folder), TableOptions())
    assert found.passed_over == ("concept.yaml",) and found.notes == ()
    assert all(image.name.endswith(".png") for image in found.images)


@pytest.mark.parametrize("name", ["list.yaml", "list.json", "run.yaml"])
def test_a_list_says_the_same_in_every_kind_of_file(write, tmp_path, name):
    write("images/1.png")
    concepts = [
        {"name": "cat", "train_data_dir": "images", "max_train_steps": 7, "learning_rate": 1e-3},
        {"placeholder_token": "<hat>", "train_data_dir": ["images"], "repeats": 3, "early_stopping": True},
    ]
    if name == "run.yaml":
        found = listed(f"--config={write(name, f'concepts: {json.dumps(concepts)}')}")
    else:
        found = listed(f"--concepts={write(name, concepts)}")
    images = (str(tmp_path / "images"),)
    assert [(each.name, changed(each.config)) for each in found.concepts] == [
        (
            "cat",
            {
                "placeholder_token": ("<cat>",),
                "train_data_dir": images,
                "max_train_steps": 7,
                "learning_rate": 1e-3,
            },
        ),
        (
            "hat",
            {
                "placeholder_token": ("<hat>",),
                "train_data_dir": images,
                "repeats": (3,),
                "early_stopping": True,
            },
        ),
    ]


def test_paths_of_a_list_are_looked_for_beside_it_first(write, tmp_path, monkeypatch):
    write("here/images/1.png")
    write("there/images/1.png")
    write("there/others/1.png")
    path = write("here/list.yaml", "[{name: a, train_data_dir: images}, {name: b, train_data_dir: others}]")
    monkeypatch.chdir(tmp_path / "there")
    found = listed(f"--concepts={path}")
    sources = [each.config.images.train_data_dir for each in found.concepts]
    assert sources == [(str(tmp_path / "here" / "images"),), ("others",)]


def test_paths_of_a_concepts_own_file_are_looked_for_in_its_folder(write, tmp_path):
    write("concepts/cat/pictures/1.png")
    write("concepts/cat/words.txt", "a {}")
    write("concepts/cat/concept.yaml", "train_data_dir: pictures\ntemplate_file: words.txt\n")
    (cat,) = listed(f"--concepts={tmp_path / 'concepts'}").concepts
    assert cat.config.images.train_data_dir == (str(tmp_path / "concepts" / "cat" / "pictures"),)
    assert cat.config.prompts.template_file == str(tmp_path / "concepts" / "cat" / "words.txt")


def test_a_concept_may_learn_from_the_hub_and_from_links(write):
    path = write(
        "list.yaml", "[{name: a, train_data_dir: [diffusers/cat_toy_example, 'https://x.org/1.png']}]"
    )
    (one,) = listed(f"--concepts={path}").concepts
    assert one.config.images.train_data_dir == ("diffusers/cat_toy_example", "https://x.org/1.png")


# What a concept is told


def test_the_run_gives_defaults_and_a_concept_overrides_them(write):
    write("images/1.png")
    path = write(
        "run.yaml",
        f"{MODEL}train_data_dir: images\nmax_train_steps: 9\nseed: 4\nresolution: 64\nhub_token: hf_secret\n"
        "concepts: [{name: a}, {name: b, seed: 5, initializer_token: null, initializer_mode: random}]\n",
    )
    a, b = (each.config for each in read_concepts(parse_config(["--config", str(path)])).concepts)
    assert (a.training.seed, b.training.seed) == (4, 5)
    assert (a.training.max_train_steps, b.training.max_train_steps) == (9, 9)
    assert (a.concept.initializer_token, b.concept.initializer_token) == (("toy",), None)
    assert a.images.resolution == b.images.resolution == 64
    assert b.hub.hub_token == "hf_secret"
    assert a.concept_list.concepts is None


def test_a_concept_of_a_list_is_the_run_of_its_own_configuration(write, tmp_path):
    write("images/1.png")
    path = write("list.yaml", "[{name: a, train_data_dir: images, num_vectors: 2}]")
    (one,) = listed(f"--concepts={path}", "--output_dir=out").concepts
    alone = parse_config(
        [*FLAGS, "--placeholder_token=<a>", f"--train_data_dir={tmp_path / 'images'}", "--num_vectors=2"]
        + ["--output_dir=out/a"]
    )
    assert one.config == alone


def test_braces_stand_for_the_word_in_prompts_of_the_run(write):
    write("images/1.png")
    path = write("list.yaml", "[{name: a}, {placeholder_token: <it>, class_prompt: 'one {}'}]")
    images = path.parent / "images"
    found = listed(
        f"--concepts={path}",
        f"--train_data_dir={images}",
        f"--class_data_dir={images}",
        "--validation_prompt=a {} here",
        "--validation_prompt=two {}",
    )
    a, it = (each.config for each in found.concepts)
    assert a.monitoring.validation_prompt == ("a <a> here", "two <a>")
    assert (it.monitoring.validation_prompt, it.loss.class_prompt) == (
        ("a <it> here", "two <it>"),
        "one <it>",
    )


def test_each_concept_has_a_repository_of_its_own(write):
    write("images/1.png")
    path = write("list.yaml", "[{name: a, train_data_dir: images}]")
    (one,) = listed(f"--concepts={path}", "--push_to_hub", "--hub_model_id=me/cats").concepts
    assert one.config.hub.hub_model_id == "me/cats-a"


def test_what_depends_on_a_concept_is_asked_of_the_concept_alone(write, capsys):
    """Not of the run, whose options are defaults."""
    write("images/1.png")
    write("captions.txt")
    path = write(
        "list.yaml", "[{name: a, train_data_dir: images, captions: caption_file, caption_file: captions.txt}]"
    )
    run = ["--keep_tokens=1", "--shuffle_caption", "--prior_loss_weight=0.5", "--lr_warmup_steps=9000"]
    run += ["--lr_scheduler=linear"]
    config = parse_config([*FLAGS[:2], f"--concepts={path}", *run])
    assert capsys.readouterr().err == ""
    with pytest.raises(ConfigError) as caught:
        read_concepts(config)
    assert [line.partition("): ")[2].partition(".")[0] for line in str(caught.value).splitlines()] == [
        "prior_loss_weight requires class_data_dir",
        "lr_warmup_steps: expected fewer than max_train_steps (5000) with lr_scheduler linear, found 9000",
    ]
    with pytest.raises(ConfigError, match="snr_gamma and debiased_estimation_loss exclude each other"):
        parse_config([*FLAGS, f"--concepts={path}", "--snr_gamma=5", "--debiased_estimation_loss"])


def test_words_that_some_tools_cannot_use_are_noted_for_each_concept(write):
    write("images/1.png")
    path = write("list.yaml", "[{name: my cat, train_data_dir: images}]")
    (note,) = listed(f"--concepts={path}").notes
    assert note.startswith(
        "concept my cat: placeholder_token '<my cat>': some tools read the blank as the end"
    )


# The run's configuration


def test_a_run_with_a_list_needs_no_word_start_or_images():
    config = parse_config(
        ["--pretrained_model_name_or_path=m", "--concepts=list.yaml", "--concepts_at_once=4"]
    )
    assert (config.concept_list.concepts, config.concept_list.concepts_at_once) == ("list.yaml", 4)
    assert config.describe().splitlines()[0] == "concepts  list.yaml"
    with pytest.raises(ConfigError, match="missing: placeholder_token, initializer_token, train_data_dir"):
        parse_config(["--pretrained_model_name_or_path=m"])


def test_a_run_with_a_list_makes_the_round_trip(write, tmp_path):
    path = write(
        "run.yaml",
        f"{MODEL}hub_token: hf_secret\nconcepts:\n- {{name: a, learning_rate: 5e-4, seed: '7', sed: 1}}\n"
        "- {placeholder_token: <b>, validation_prompt: [x, 'no'], max_train_steps: null, repeats: many}\n",
    )
    config = load_config(path)
    assert config.to_dict()["concepts"] == [
        {"name": "a", "learning_rate": 5e-4, "seed": "7", "sed": "1"},
        {
            "placeholder_token": "<b>",
            "validation_prompt": ["x", "no"],
            "max_train_steps": None,
            "repeats": "many",
        },
    ]
    assert RunConfig.from_dict(config.to_dict()) == config.replace(hub_token=None)
    assert load_config(write("again.yaml", config.to_yaml())) == config.replace(hub_token=None)
    assert config.replace(seed=1).concept_list == config.concept_list
    assert hash(config) == hash(config.replace())
    assert (
        config.replace(concepts=None, placeholder_token="<a>", train_data_dir="x").concept.each[0].start
        == "'toy'"
    )


def test_a_list_may_be_given_from_python(tmp_path):
    (tmp_path / "1.png").write_text("x")
    config = load_config(
        pretrained_model_name_or_path="m",
        concepts=[{"name": "a", "train_data_dir": tmp_path, "initializer_token": "toy"}],
    )
    (one,) = read_concepts(config).concepts
    assert (one.name, one.where, one.config.images.train_data_dir) == ("a", "place 1", (str(tmp_path),))


def test_the_shipped_list_is_read():
    found = read_concepts(parse_config(["--config=configs/many.yaml"]))
    assert [(each.name, *each.config.concept.words) for each in found.concepts] == [
        ("ruby", "<ruby>"),
        ("ruby-slow", "<ruby-slow>"),
        ("ruby-two", "<ruby-of-two>"),
    ]
    assert found.concepts[0].config.monitoring.validation_prompt == ("a photo of a <ruby> at night",)


# Custom Diffusion's list


def test_a_list_of_custom_diffusion_is_put_into_our_words(write):
    write("cat/1.png")
    write("pot/1.png")
    write("cats/1.png")
    path = write(
        "concepts_list.json",
        [
            {
                "instance_prompt": "photo of a <new1> cat",
                "class_prompt": "cat",
                "instance_data_dir": "./cat",
                "class_data_dir": "./cats",
            },
            {
                "instance_prompt": "photo of a <new2> wooden pot",
                "instance_data_dir": "pot",
                "prompt_filename": "pot.txt",
                "max_train_steps": 3,
            },
        ],
    )
    found = read_concepts(parse_config(["--pretrained_model_name_or_path=m", f"--concepts={path}"]))
    cat, pot = (changed(each.config, beside=["pretrained_model_name_or_path"]) for each in found.concepts)
    assert [each.name for each in found.concepts] == ["new1", "new2"]
    assert [each.config.concept.each[0].initializer_token for each in found.concepts] == ["cat", "wooden"]
    assert cat == {
        "placeholder_token": ("<new1>",),
        "train_data_dir": (str(path.parent / "cat"),),
        "prompt_template": ("photo of a {} cat",),
        "class_data_dir": str(path.parent / "cats"),
    }
    assert pot == {
        "placeholder_token": ("<new2>",),
        "train_data_dir": (str(path.parent / "pot"),),
        "prompt_template": ("photo of a {} wooden pot",),
        "max_train_steps": 3,
    }
    assert [line.partition(":")[0] + line.partition(":")[2][:21] for line in found.notes] == [
        "concept new1 class_prompt is left",
        "concept new2 prompt_filename does",
        "concept new2 starts as 'wooden', ",
    ]


def test_keys_of_ours_win_in_a_foreign_entry(write):
    write("cat/1.png")
    entry = {
        "instance_prompt": "photo of sks dog",
        "instance_data_dir": "cat",
        "placeholder_token": "sks",
        "initializer_token": "toy",
        "templates": "style",
        "class_prompt": "a sks thing",
        "class_data_dir": "cat",
    }
    (one,) = listed(f"--concepts={write('list.json', [entry])}").concepts
    assert one.config.concept.words == ("sks",) and one.config.prompts.prompt_template is None
    assert (one.config.concept.each[0].initializer_token, one.config.loss.class_prompt) == (
        "toy",
        "a sks thing",
    )


@pytest.mark.parametrize(
    ("prompt", "fault"),
    [
        ("photo of a sks dog", "expected one new word in angle brackets"),
        ("a <new1> with a <new2>", "found <new1> and <new2> in 'a <new1> with a <new2>'"),
        (3, "instance_prompt: expected text, found 3"),
    ],
)
def test_an_instance_prompt_without_one_new_word_is_refused(write, prompt, fault):
    write("cat/1.png")
    path = write("list.json", [{"instance_prompt": prompt, "instance_data_dir": "cat", "name": "cat"}])
    with pytest.raises(ConfigError) as caught:
        listed(f"--concepts={path}")
    assert fault in str(caught.value) and "\n" not in str(caught.value)


# Sources of images with options of their own


def sources_of(config):
    images = config.images
    return images.source_paths, images.of_each_source("repeats")


def test_a_concept_has_sources_with_options_of_their_own(write, tmp_path):
    write("here/cats/1.png")
    write("here/more/1.png")
    mapping = {"path": "more", "repeats": 3, "caption_prefix": "drawn, ", "captions": "filename"}
    cat = {"name": "cat", "train_data_dir": ["cats", mapping], "repeats": 5}
    folder = tmp_path / "here"
    for name in ("list.yaml", "list.json"):
        path = write(f"here/{name}", [cat, {"name": "b", "train_data_dir": {"path": "cats", "repeats": 2}}])
        one, other = (each.config for each in listed(f"--concepts={path}").concepts)
        assert sources_of(one) == ((str(folder / "cats"), str(folder / "more")), (5, 3))
        assert one.of_source(0).prompts.captions == "none"
        assert one.of_source(1).prompts.caption_prefix == "drawn, "
        assert sources_of(other) == ((str(folder / "cats"),), (2,))
    run = parse_config([*FLAGS, f"--concepts={path}"]).replace(
        concepts=[
            {**cat, "train_data_dir": [str(folder / "cats"), {**mapping, "path": str(folder / "more")}]}
        ]
    )
    again = RunConfig.from_dict(json.loads(json.dumps(run.to_dict())))
    assert again.to_dict() == run.to_dict()
    (kept,) = (each.config for each in read_concepts(again).concepts)
    assert sources_of(kept) == sources_of(one)
    file = write("run.yaml", f"{MODEL}concepts:\n- {json.dumps(run.to_dict()['concepts'][0])}\n")
    (kept,) = read_concepts(load_config(file)).concepts
    assert sources_of(kept.config) == sources_of(one)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{path: cats, repeat: 3}", r"train_data_dir \S*cats .*: repeat: .* Did you mean repeats\?"),
        ("{path: cats, repeats: 0}", "cats .*: repeats: expected a whole number >= 1"),
        ("{path: cats, flip_p: 0}", "cats .*: flip_p: expected an option of a concept, found one of the run"),
        ("{repeats: 3}", "train_data_dir 1 .*: path: expected where the images are, found nothing"),
        ("{path: nowhere}", "train_data_dir nowhere: expected images, found no such folder or file"),
        ("&a {path: cats, train_data_dir: *a}", "expected a single value, found a mapping"),
    ],
)
def test_what_a_source_of_a_concept_cannot_have_is_a_fault_of_it(write, source, message):
    write("cats/1.png")
    path = write("list.yaml", f"- name: a\n  train_data_dir: {source}\n- name: b\n  train_data_dir: cats\n")
    with pytest.raises(ConfigError, match=message) as caught:
        listed(f"--concepts={path}")
    assert str(caught.value).count("list.yaml") >= 1


def test_what_the_sources_of_a_run_set_for_all_of_its_concepts_is_of_a_concept(write):
    concepts = "concepts: [{name: a}, {name: b, train_data_dir: cats}]\n"
    file = write("run.yaml", f"{MODEL}train_data_dir: [{{path: cats, flip_p: 0}}]\n{concepts}")
    with pytest.raises(
        ConfigError, match=r"cats .*: flip_p: expected an option of a concept, found one of the"
    ):
        load_config(file)
