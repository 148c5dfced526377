"""Captions of the world's scenes, in varied wording; what is held out has no word in any of them."""

import re

import numpy as np
from world import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_COLOURS,
    HELD_OUT_SHAPES,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    THINGS,
    Scene,
)

from ti_flax.data.prompts.templates import OBJECT_TEMPLATES, STYLE_TEMPLATES

GENERIC = ("object", "thing", "toy", "shape")
SETTINGS = {
    "night": ("at night", "in the night sky"),
    "wall": ("in front of a wall", "on a brick wall"),
    "beach": ("on the beach", "at the beach"),
} | {
    name: (f"on a {name} background", f"with a {name} background")
    for name in BACKGROUNDS
    if name not in ("night", "wall", "beach")
}
# What each shape consists of, before a noun and behind it: the only words there are for a held-out shape.
PARTS = {
    "circle": ("round", "a round edge"),
    "square": ("four cornered", "four corners"),
    "triangle": ("three cornered", "three corners"),
    "star": ("five pointed", "five points"),
    "heart": ("two lobed", "two lobes"),
    "cross": ("four armed", "four arms"),
    "ring": ("hollow", "a hole"),
    "moon": ("two horned", "two horns"),
    "arrow": ("barbed", "a barbed tip"),
    "bolt": ("jagged", "a jagged edge"),
    "flower": ("five petalled", "five petals"),
    "hourglass": ("waisted", "a narrow waist"),
}
_TEXTURE_NOUNS = {"striped": "stripes", "dotted": "dots", "checked": "checks"}
_SIDES = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "middle": "in the middle",
}
# How often an attribute that could be named is named, and how often a caption speaks of style.
_NAMED = {
    "size": 0.45,
    "colour": 0.88,
    "texture": 0.85,
    "shape": 0.88,
    "background": 0.8,
    "place": 0.2,
    "tilt": 0.3,
}
_STYLE, _BARE = 0.07, 0.15
# How often a caption names a shape's parts: beside its noun, and beside a generic one.
_PARTS_BESIDE, _PARTS_ALONE = 0.12, 0.75
# How often an object that has a noun of its own is called by it.
_THING = 0.6
_THING_WORDS = {parts: word for word, parts in THINGS.items()}


def sayable(scene: Scene, rng: np.random.Generator) -> dict[str, bool]:
    """Chooses which attributes a caption names, never all that would name what is held out."""
    named = {name: bool(rng.random() < share) for name, share in _NAMED.items()}
    named["shape"] &= scene.shape not in HELD_OUT_SHAPES
    named["colour"] &= scene.colour not in HELD_OUT_COLOURS
    if scene.is_held_out_combination and named["shape"] and named["colour"]:
        named[str(rng.choice(["shape", "colour"]))] = False
    named["parts"] = bool(rng.random() < (_PARTS_BESIDE if named["shape"] else _PARTS_ALONE))
    named["parts"] &= not (scene.is_held_out_combination and named["colour"])
    return named


def noun_phrase(scene: Scene, named: dict[str, bool], rng: np.random.Generator) -> str:
    """What the object is: "small red striped star", "star, red with stripes", "five pointed toy", "toy"."""
    if scene.object in _THING_WORDS and rng.random() < _THING:
        named = dict.fromkeys(named, False) | {name: named[name] for name in ("size", "tilt")}
        noun = _THING_WORDS[scene.object]
    else:
        noun = scene.shape if named["shape"] else str(rng.choice(GENERIC))
    before, behind = PARTS[scene.shape]
    size = [scene.size] if named["size"] else []
    colour = [scene.colour] if named["colour"] else []
    texture = [scene.texture] if named["texture"] else []
    tilt = ["tilted"] if named["tilt"] and scene.tilted else []
    if named["parts"]:
        noun = f"{before} {noun}" if rng.random() < 0.5 else f"{noun} with {behind}"
    if rng.random() < 0.75:
        return " ".join([*tilt, *size, *colour, *texture, noun])
    told = colour + (
        ["with", _TEXTURE_NOUNS[scene.texture]] if texture and scene.texture != "plain" else texture
    )
    return " ".join([*tilt, *size, noun]) + (f", {' '.join(told)}" if told else "")


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describes a scene in one of many wordings, most of them in a template of Textual Inversion."""
    named = sayable(scene, rng)
    if rng.random() < _STYLE and named["colour"]:
        return str(rng.choice(STYLE_TEMPLATES)).format(f"{scene.colour} {scene.texture}")
    place = f" {_SIDES[scene.place]}" if named["place"] else ""
    setting = f" {rng.choice(SETTINGS[scene.background])}" if named["background"] else ""
    phrase = noun_phrase(scene, named, rng) + place + setting
    if rng.random() < _BARE:
        return with_article(phrase)
    return tidy(str(rng.choice(OBJECT_TEMPLATES)).format(phrase))


def with_article(phrase: str) -> str:
    """Puts "a" or "an" before a phrase."""
    return tidy(f"a {phrase}")


def tidy(text: str) -> str:
    """Writes "an" for "a" before a vowel."""
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def literal(scene: Scene) -> str:
    """Everything about a scene in plain words, for measuring: it may name what is held out from training."""
    return with_article(f"{scene.colour} {scene.texture} {scene.shape} {SETTINGS[scene.background][0]}")


def vocabulary() -> list[str]:
    """Every word that a caption can hold, and those that concepts are asked for with."""
    texts = [*SHAPES, *COLOURS, *TEXTURES, *_TEXTURE_NOUNS.values(), *SIZES, *PLACES, *GENERIC, *THINGS]
    texts += [*OBJECT_TEMPLATES, *STYLE_TEMPLATES, *_SIDES.values(), "a an with and tilted"]
    texts += [phrase for phrases in (*SETTINGS.values(), *PARTS.values()) for phrase in phrases]
    return sorted(set(re.findall(r"[a-z]+", " ".join(texts).lower())))
