"""Model folders whose configs and tokenizers are wrong or mean harm."""

import json
import os
import shutil

import pytest
from hostile_cases import Case, check, place, train, written

DEEP = '{"a":' * 100_000


def changed(part, name="config.json", **changes):
    """A run with a model folder in which fields of a config are others; those of None are left out."""

    def run(folder):
        model = shutil.copytree(place() / "model", folder / "model")
        file = model / part / name
        content = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({key: value for key, value in content.items() if value != "left out"}))
        return train(folder, pretrained_model_name_or_path=model)

    return run


def holding(path, content):
    """A run with a model folder in which a file holds something else, or is what a function makes."""

    def run(folder):
        model = shutil.copytree(place() / "model", folder / "model")
        (model / path).unlink(missing_ok=True)
        if callable(content):
            content(model / path)
        else:
            written(model / path, content)
        return train(folder, pretrained_model_name_or_path=model)

    return run


def scheduler(**changes):
    return changed("scheduler", "scheduler_config.json", **changes)


def tokenizer(**changes):
    return changed("tokenizer", "tokenizer_config.json", **changes)


def only_tokenizer(*files):
    """A run with a tokenizer folder of given files, name and content."""

    def run(folder):
        for name, content in files:
            written(folder / "tokenizer" / name, content)
        (folder / "tokenizer").mkdir(exist_ok=True)
        return train(folder, tokenizer_name=folder / "tokenizer")

    return run


def more_words(folder):
    """A run with a tokenizer that knows more words than the text encoder has rows."""
    model = shutil.copytree(place() / "model", folder / "model")
    for name in ("tokenizer.json", "vocab.json"):
        file = model / "tokenizer" / name
        if file.exists():
            content = json.loads(file.read_text(encoding="utf-8"))
            vocabulary = content["model"]["vocab"] if name == "tokenizer.json" else content
            vocabulary |= {f"word{number}</w>": len(vocabulary) + number for number in range(100)}
            file.write_text(json.dumps(content), encoding="utf-8")
    return train(folder, pretrained_model_name_or_path=model)


def carrying(make, name="safety_checker/x"):
    """A run that will write a pipeline, of a model with what a function makes in it."""

    def run(folder):
        secret = written(folder / "secret.json", '{"password": "open sesame"}')
        model = shutil.copytree(place() / "model", folder / "model")
        index = json.loads((model / "model_index.json").read_text())
        index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
        (model / "model_index.json").write_text(json.dumps(index))
        written(model / "safety_checker" / "config.json", "{}")
        (model / name).unlink(missing_ok=True)
        make(model / name, secret)
        return train(folder, pretrained_model_name_or_path=model, only_save_embeds=None)

    return run


def to_secret(path, secret):
    path.symlink_to(secret)


def folder_to_secret(path, secret):
    shutil.rmtree(path)
    secret.rename(written(secret.parent / "private" / "a", "").parent / "config.json")
    path.symlink_to(secret.parent / "private")


def indexed(entry, name="safety_checker", **others):
    """A run that will write the pipeline of a model whose index has an entry, and others."""

    def run(folder):
        model = shutil.copytree(place() / "model", folder / "model")
        index = json.loads((model / "model_index.json").read_text()) | {name: entry} | others
        (model / "model_index.json").write_text(json.dumps(index))
        return train(folder, pretrained_model_name_or_path=model, only_save_embeds=None)

    return run


BERT = {"model_type": "bert", "hidden_size": 768, "num_hidden_layers": 12, "vocab_size": 30522}
OF_SDXL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
LIBRARY = r"(?<=tokenizer_config.json\), found ).*(?=\. Check)"

CASES = [
    Case(
        "none",
        "a folder that is not there",
        lambda folder: train(folder, pretrained_model_name_or_path=folder / "no"),
    ),
    Case(
        "empty_folder", "an empty folder", lambda folder: train(folder, pretrained_model_name_or_path=folder)
    ),
    Case(
        "pipe",
        "a pipe as a model",
        lambda folder: (os.mkfifo(folder / "p"), train(folder, pretrained_model_name_or_path=folder / "p"))[
            1
        ],
    ),
    Case(
        "variant",
        "a variant that no part of the model has",
        lambda folder: train(folder, variant="fp16"),
    ),
    Case("config_missing", "a config.json that is not there", holding("unet/config.json", lambda path: None)),
    Case("config_empty", "an empty one", holding("unet/config.json", "")),
    Case("config_pipe", "one that is a pipe", holding("unet/config.json", os.mkfifo)),
    Case(
        "config_device",
        "one that is a device without an end",
        holding("unet/config.json", lambda path: path.symlink_to("/dev/zero")),
    ),
    Case("config_large", "one of 20 MiB", holding("unet/config.json", " " * 20 * 2**20)),
    Case("config_deep", "one of 100,000 brackets within one another", holding("unet/config.json", DEEP)),
    Case("config_list", "one that is a list", holding("unet/config.json", "[]")),
    Case("config_latin1", "one in another encoding", holding("unet/config.json", b'{"a": "\xe9"}')),
    Case(
        "config_digits",
        "a number of 5,000 digits",
        holding("unet/config.json", f'{{"in_channels": {"9" * 5000}}}'),
        loose=r"Exceeds.*",
    ),
    Case("other_text_encoder", "the config of a BERT", holding("text_encoder/config.json", json.dumps(BERT))),
    Case("other_unet", "a UNet of SDXL", changed("unet", **OF_SDXL)),
    Case("vocabulary", "1,000,000,000,000 words", changed("text_encoder", vocab_size=10**12)),
    Case("many_layers", "1,000,000,000 layers", changed("text_encoder", num_hidden_layers=10**9)),
    Case("many_blocks", "100,000 blocks", changed("unet", block_out_channels=[32] * 100_000)),
    Case("block_layers", "a block of 1,000,000 layers", changed("unet", layers_per_block=10**6)),
    Case("infinite", "an infinite number", changed("text_encoder", layer_norm_eps=float("inf"))),
    Case("negative", "a negative number", changed("text_encoder", hidden_size=-32)),
    Case("text", "text in the place of a number", changed("vae", latent_channels="four")),
    Case(
        "other_width",
        "a text encoder of another width than the UNet's",
        changed("unet", cross_attention_dim=64),
    ),
    Case(
        "index_class",
        "a model_index.json of another kind of model",
        holding("model_index.json", '{"_class_name": "FluxPipeline", "transformer": ["a", "b"]}'),
    ),
    Case(
        "index_refiner",
        "one of the SDXL refiner",
        indexed(["transformers", "CLIPTextModelWithProjection"], "text_encoder_2", text_encoder=[None, None]),
    ),
    Case("index_number", "one whose class is a number", holding("model_index.json", '{"_class_name": 5}')),
    Case("index_deep", "one of 100,000 brackets", holding("model_index.json", DEEP)),
    Case("timesteps", "1,000,000,000,000 timesteps", scheduler(num_train_timesteps=10**12)),
    Case("betas_text", "betas that are text", scheduler(trained_betas="abc")),
    Case("betas_nan", "a beta that is no number", scheduler(beta_end=float("nan"))),
    Case("betas_negative", "a beta below zero", scheduler(beta_start=-1)),
    Case("prediction", "an unknown prediction_type", scheduler(prediction_type=["epsilon"])),
    Case("steps_offset", "a steps_offset that is text", scheduler(steps_offset="one")),
    Case("spacing", "an unknown timestep_spacing", scheduler(timestep_spacing="odd")),
    Case(
        "null_width", "null where this model is not as the default", changed("unet", cross_attention_dim=None)
    ),
    Case("scheduler_class", "a scheduler whose class is a list", scheduler(_class_name=[], beta_schedule=7)),
    Case("tokenizer_none", "no tokenizer", only_tokenizer()),
    Case(
        "tokenizer_broken",
        "a vocab.json that is cut short",
        only_tokenizer(("vocab.json", '{"a": 0, "b'), ("merges.txt", "#version: 0.2\n")),
        loose=LIBRARY,
    ),
    Case(
        "tokenizer_list",
        "a vocab.json that is a list",
        only_tokenizer(("vocab.json", "[1]"), ("merges.txt", "")),
        loose=LIBRARY,
    ),
    Case(
        "tokenizer_ids",
        "a vocab.json whose ids are text",
        only_tokenizer(("vocab.json", '{"a": "b"}'), ("merges.txt", "")),
        loose=LIBRARY,
    ),
    Case(
        "tokenizer_merges",
        "merges that join nothing",
        only_tokenizer(("vocab.json", '{"a": 0}'), ("merges.txt", "#version: 0.2\nq\n")),
        loose=LIBRARY,
    ),
    Case(
        "tokenizer_json",
        "a tokenizer.json of other bytes",
        only_tokenizer(("tokenizer.json", b"\xff\0\xff")),
        loose=LIBRARY,
    ),
    Case(
        "tokenizer_deep",
        "a tokenizer_config.json of 100,000 brackets",
        holding("tokenizer/tokenizer_config.json", DEEP),
        loose=LIBRARY,
    ),
    Case("tokenizer_pipe", "a merges.txt that is a pipe", holding("tokenizer/merges.txt", os.mkfifo)),
    Case(
        "tokenizer_large",
        "a vocab.json of 65 MiB",
        holding("tokenizer/vocab.json", lambda path: os.truncate(written(path, b""), 65 * 2**20)),
    ),
    Case("tokenizer_length", "a model_max_length that is text", tokenizer(model_max_length="long")),
    Case("tokenizer_short", "a model_max_length of 0", tokenizer(model_max_length=0)),
    Case("tokenizer_negative", "a model_max_length below zero", tokenizer(model_max_length=-5)),
    Case("carried_link", "a safety checker with a link to another file of this machine", carrying(to_secret)),
    Case(
        "carried_folder",
        "one that is a link to another folder",
        carrying(lambda path, secret: folder_to_secret(path.parent, secret)),
    ),
    Case(
        "carried_parent",
        "one with a link to the folder above",
        carrying(lambda path, secret: path.symlink_to("..")),
    ),
    Case(
        "carried_device",
        "one with a link to a device without an end",
        carrying(lambda path, secret: path.symlink_to("/dev/zero")),
    ),
    Case("carried_pipe", "one with a pipe", carrying(lambda path, secret: os.mkfifo(path))),
    Case(
        "carried_many",
        "one of 1,100 files",
        carrying(lambda path, secret: [written(path / str(n), "") for n in range(1100)]),
    ),
    Case("index_three", "three words in the model_index.json for a safety checker", indexed(["a", "b", "c"])),
    Case("index_five", "a number for it", indexed(5)),
    Case(
        "index_mixed", "a word and a number for a feature extractor", indexed(["a", 5], "feature_extractor")
    ),
    Case("index_code", "a path in the place of a library", indexed(["../../evil", "Checker"])),
    Case(
        "config_link",
        "a scheduler_config.json that is a link to another file of this machine",
        carrying(to_secret, "scheduler/scheduler_config.json"),
    ),
    Case(
        "index_link",
        "a model_index.json that is one",
        carrying(to_secret, "model_index.json"),
    ),
    Case(
        "tokenizer_link",
        "a tokenizer_config.json that is one",
        carrying(to_secret, "tokenizer/tokenizer_config.json"),
    ),
    Case(
        "tokenizer_template",
        "a chat template of the tokenizer that is one",
        carrying(to_secret, "tokenizer/chat_template.jinja"),
    ),
    Case("tokenizer_words", "more words than the text encoder has rows", more_words),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_input(case, tmp_path):
    check(case, tmp_path, "test_hostile_models")
