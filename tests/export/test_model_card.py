"""The card of a concept: front matter that the Hub reads, and sentences that are true."""

import ast
import re
import shlex

import pytest
import yaml
from shown_commands import commands_of, complaint

from ti_flax.config import RunConfig
from ti_flax.export.model_card import CardFacts, write_model_card
from ti_flax.models.word_places import Concept, Word
from ti_flax.run.result import of_configuration

REQUIRED = {
    "pretrained_model_name_or_path": "some/model",
    "train_data_dir": "/home/somebody/pictures",
    "placeholder_token": "<cat: toy>",
    "initializer_token": "toy",
}
FACTS = {"images": 3, "width": 768, "step": 20, "batch": 8, "rate": "0.002"}


def card(tmp_path, facts=FACTS, **changes):
    config = RunConfig.from_dict(REQUIRED | {"max_train_steps": 20} | changes)
    (token,) = config.concept.words
    facts = CardFacts(**of_configuration(config, config.monitoring), **facts)
    write_model_card(tmp_path, Concept((Word(token, (token,), (7,)),)), facts)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def block(body, language):
    return body.partition(f"```{language}\n")[2].partition("```")[0]


def test_front_matter(tmp_path):
    front, body = card(tmp_path)
    assert front["base_model"] == "some/model" and front["instance_prompt"] == "<cat: toy>"
    assert {"textual_inversion", "stable-diffusion"} <= set(front["tags"])
    assert "license" not in front and "widget" not in front and "Gallery" not in body
    assert "[some/model](https://huggingface.co/some/model): one vector of 768 numbers" in body
    assert "/home/somebody" not in body and "train_data_dir" not in body


@pytest.mark.parametrize("name", ["model-v1.5", "model.safetensors"])
def test_a_model_of_this_machine_is_named_without_its_place(tmp_path, name):
    (tmp_path / "model-v1.5").mkdir()
    (tmp_path / "model.safetensors").touch()
    front, body = card(tmp_path, pretrained_model_name_or_path=str(tmp_path / name))
    assert "base_model" not in front and str(tmp_path) not in body
    assert f"for the model `{name}`" in body
    assert ("from_single_file" in body) == (name == "model.safetensors")
    ast.parse(block(body, "python"))


def test_the_commands_are_whole(tmp_path):
    quotes = '<it\'s "that">'
    _, body = card(tmp_path, placeholder_token=quotes, push_to_hub=True, hub_model_id="me/cat", clip_skip=1)
    calls = ast.unparse(ast.parse(block(body, "python")))
    assert "load_textual_inversion('me/cat')" in calls and "clip_skip=1" in calls
    assert repr(f"a photo of a {quotes}") in calls
    words = shlex.split(block(body, "bash").replace("\\\n", ""))
    assert words[-4:] == ["--prompt", f"a photo of a {quotes}", "--clip_skip", "1"]
    assert [complaint(each) for each in commands_of("card", block(body, "bash"))] == [None]
    assert 'calls "Clip skip" 2' in body


@pytest.mark.parametrize("shared", [False, True])
def test_a_word_of_two_text_encoders_is_loaded_in_two_calls(tmp_path, shared):
    hub = {"push_to_hub": True, "hub_model_id": "me/cat"} if shared else {}
    front, body = card(tmp_path, FACTS | {"second_width": 1280}, **hub)
    assert front["tags"][:3] == ["stable-diffusion-xl", "stable-diffusion-xl-diffusers", "text-to-image"]
    assert "one vector of 768 and 1280 numbers" in body
    code = ast.unparse(ast.parse(block(body, "python"))).splitlines()
    first, second = (
        f"'me/cat', weight_name='{name}'" if shared else f"'{name}'"
        for name in ("learned_embeds.safetensors", "learned_embeds_2.safetensors")
    )
    of_second = "text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2"
    assert code == [
        "from diffusers import StableDiffusionXLPipeline",
        "pipe = StableDiffusionXLPipeline.from_pretrained('some/model')",
        "pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id",
        f"pipe.load_textual_inversion({first})",
        f"pipe.load_textual_inversion({second}, {of_second})",
        "pipe('a photo of a <cat: toy>').images[0].save('picture.png')",
    ]
    text = " ".join(body.split())
    assert "put `cat-toy.safetensors`, which has the vectors of both text encoders, into the folder" in text
    assert "`cat-toy` is then the word" in text and "the word is `embedding:cat-toy`" in text
    assert "learned_embeds.safetensors` into" not in text
    _, of_one = card(tmp_path)
    assert "StableDiffusionPipeline." in block(of_one, "python")
    assert "put `learned_embeds.safetensors` into" in " ".join(of_one.split())


def test_images_and_settings(tmp_path):
    facts = {
        "images": 40,
        "width": 768,
        "step": 10,
        "total": 20,
        "batch": 8,
        "rate": "1",
        "concept_images": 2,
        "examples": ("a: b",),
        "sheet": True,
    }
    front, body = card(tmp_path, facts, hub_license="mit", seed=5, hub_private_repo=False)
    assert front["license"] == "mit"
    assert front["widget"] == [{"text": "a: b", "output": {"url": "example_images/0.jpeg"}}]
    assert "learned from 40 images in 10 of 20 steps (the training goes on)" in " ".join(body.split())
    assert "2 of the training images" in body and "(concept_images/1.jpeg)" in body
    assert "<Gallery />" in body and "(contact_sheet.png)" in body
    settings = yaml.safe_load(block(body, "yaml"))
    assert settings == {
        "placeholder_token": "<cat: toy>",
        "initializer_token": "toy",
        "max_train_steps": 20,
        "seed": 5,
    }


def test_without_a_repository_the_file_is_named(tmp_path):
    for changes in ({}, {"push_to_hub": True, "hub_model_id": "cat"}):
        _, body = card(tmp_path, **changes)
        assert 'load_textual_inversion("learned_embeds.safetensors")' in body


def rendered(body):
    """The parts of a card that a page shows as text: what is outside of code."""
    without_blocks = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", body, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", without_blocks, flags=re.DOTALL)


@pytest.mark.parametrize("token", ["`<img src=x>`", "``<b>", "<b>` [x](//evil)", "`", "```<b>```"])
def test_a_word_cannot_become_markup(tmp_path, token):
    front, body = card(tmp_path, placeholder_token=token)
    assert front["instance_prompt"] == token
    assert not re.search(r"<img|<b>|evil", rendered(body))


def test_prompts_and_options_cannot_end_their_block(tmp_path):
    ending = "a <cat: toy>\n```\n<img src=x>\n# Evil"
    _, body = card(tmp_path, class_prompt=ending, class_data_dir="x", initializer_token="<b>[x](//evil)")
    assert not re.search(r"(?<!\\)<|Evil|(?<!\\)\[x", rendered(body))
    assert "class_prompt" in body and "<img src=x>" in body


def test_a_folder_with_a_strange_name_stays_on_its_line(tmp_path):
    (tmp_path / "a\n```\n<b>").mkdir()
    _, body = card(tmp_path, pretrained_model_name_or_path=str(tmp_path / "a\n```\n<b>"))
    assert "<b>" not in rendered(body) and "\n```\n<b>" not in body


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "mine.md").write_text("mine")
    (tmp_path / "README.md").symlink_to(tmp_path / "mine.md")
    card(tmp_path)
    assert (tmp_path / "mine.md").read_text() == "mine" and not (tmp_path / "README.md").is_symlink()
