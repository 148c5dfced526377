"""What the base model has no word for: the concepts that Textual Inversion learns, and images of them."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "demo")]

import ti_flax  # noqa: E402, F401  # first: it says so where Python is too old

# isort: split
import numpy as np  # noqa: E402
from captions import PARTS, SETTINGS, with_article  # noqa: E402
from help_format import HelpFormatter  # noqa: E402
from world import (  # noqa: E402
    BACKGROUNDS,
    HELD_OUT_COLOURS,
    HELD_OUT_SHAPES,
    Scene,
    goes_on,
    random_scene,
    render,
)

from ti_flax.console.arguments import ArgumentParser  # noqa: E402
from ti_flax.console.program import exit_code  # noqa: E402


@dataclass(frozen=True)
class Concept:
    """One object of the world.

    Attributes:
      name: of the files, and between the angle brackets of the placeholder.
      colour: of `world.RGB`.
      texture: of `world.TEXTURES`.
      shape: of `shapes.OUTLINES`.
      initializer: the known word that its embedding starts from.
    """

    name: str
    colour: str
    texture: str
    shape: str
    initializer: str

    @property
    def placeholder(self) -> str:
        """The new word."""
        return f"<{self.name}>"

    @property
    def literal(self) -> str:
        """What it is, for people, without an article."""
        return f"{self.colour} {self.texture} {self.shape}"

    @property
    def has_words(self) -> bool:
        """Whether its colour and its shape have words of their own."""
        return self.colour not in HELD_OUT_COLOURS and self.shape not in HELD_OUT_SHAPES

    @property
    def plain_words(self) -> str | None:
        """What it is in words of the base model's captions, without an article; None if there are none."""
        if self.colour in HELD_OUT_COLOURS:
            return None
        noun = f"toy with {PARTS[self.shape][1]}" if self.shape in HELD_OUT_SHAPES else self.shape
        return f"{self.colour} {self.texture} {noun}"

    @property
    def settings(self) -> dict[str, str]:
        """The backgrounds that its colour stands out from, and how a prompt asks for each."""
        return {name: SETTINGS[name][0] for name in BACKGROUNDS if goes_on(self.colour, name)}


CONCEPTS = (
    # Known words, in a combination that no caption has.
    Concept("glowheart", "purple", "striped", "heart", "heart"),
    Concept("seastar", "cyan", "dotted", "star", "star"),
    Concept("plaidmoon", "orange", "checked", "moon", "moon"),
    Concept("pointer", "red", "plain", "arrow", "arrow"),
    # A shape without a noun: captions name its parts.
    Concept("posy", "pink", "plain", "flower", "toy"),
    Concept("daisy", "white", "dotted", "flower", "toy"),
    Concept("sandglass", "blue", "striped", "hourglass", "toy"),
    # A colour without a word.
    Concept("limestar", "lime", "plain", "star", "star"),
    Concept("ruby", "crimson", "striped", "ring", "ring"),
    # Neither shape nor colour has one.
    Concept("orchid", "crimson", "plain", "flower", "toy"),
)
# Ten more, of the same kinds and as many of each. Nothing is tuned on them: they say whether what was found
# to be better on the first ten is better. No others than those of `world.HELD_OUT_COMBINATIONS` were kept
# from the base model's captions, so that here the combinations of known words are those that its captions
# name least often: of each texture the first whose colour and shape are not taken. They are named in 158 to
# 211 of the 240,000 captions that it was trained with last, where the median combination is in 239.
HELD_OUT = (
    # Known words, in a combination that captions have.
    Concept("plus", "orange", "plain", "cross", "cross"),
    Concept("tile", "cyan", "checked", "square", "square"),
    Concept("candystar", "pink", "striped", "star", "star"),
    Concept("partyhat", "purple", "dotted", "triangle", "triangle"),
    # A shape without a noun: captions name its parts.
    Concept("clover", "green", "striped", "flower", "toy"),
    Concept("eggtimer", "red", "plain", "hourglass", "toy"),
    Concept("spool", "white", "checked", "hourglass", "toy"),
    # A colour without a word.
    Concept("limeheart", "lime", "dotted", "heart", "heart"),
    Concept("crescent", "crimson", "plain", "moon", "moon"),
    # Neither shape nor colour has one.
    Concept("goblet", "lime", "plain", "hourglass", "toy"),
)
BY_NAME = {concept.name: concept for concept in (*CONCEPTS, *HELD_OUT)}


def concept_scenes(concept: Concept, count: int, *, seed: int) -> list[Scene]:
    """Draws scenes of a concept, on as many different backgrounds as there are."""
    rng = np.random.default_rng([seed, *concept.name.encode()])
    grounds = list(concept.settings)
    rng.shuffle(grounds)
    return [
        random_scene(
            rng,
            colour=concept.colour,
            texture=concept.texture,
            shape=concept.shape,
            background=grounds[index % len(grounds)],
            size="large" if index % 2 == 0 else "medium",
        )
        for index in range(count)
    ]


def write_images(concept: Concept, folder: Path, count: int = 5, *, seed: int = 0) -> None:
    """Renders a concept's training images into a folder, `<name>-1.png` and so on."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for index, scene in enumerate(concept_scenes(concept, count, seed=seed)):
        Image.fromarray(render(scene)).save(folder / f"{concept.name}-{index + 1}.png")


def entry(concept: Concept, folder: Path, **own: object) -> dict[str, object]:
    """A concept as an entry of a list of concepts.

    Args:
      concept: of the world.
      folder: with its images.
      own: what the entry says otherwise, or beside that.
    """
    given = {"name": concept.name, "placeholder_token": concept.placeholder}
    given |= {"initializer_token": concept.initializer, "train_data_dir": str(folder)}
    return {**given, **own}


def prompts(noun: str, settings: dict[str, str], count: int) -> list[tuple[str, str]]:
    """Asks for a noun in each setting in turn: `(background, prompt)`, `count` of them."""
    names = list(settings)
    return [
        (name, with_article(f"photo of a {noun} {settings[name]}"))
        for name in (names[index % len(names)] for index in range(count))
    ]


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = ArgumentParser(description="Render a concept's training images.", formatter_class=HelpFormatter)
    parser.add_argument("concept", choices=sorted(BY_NAME), help="what the images show")
    parser.add_argument("folder", type=Path, help="folder for the PNG files")
    parser.add_argument("--count", type=int, default=5, help="images to render")
    parser.add_argument("--seed", type=int, default=0, help="seed of places and backgrounds")
    return parser.parse_args(argv)


def main(argv=None) -> None:
    options = parse_arguments(argv)
    concept = BY_NAME[options.concept]
    write_images(concept, options.folder, options.count, seed=options.seed)
    what, start = with_article(concept.literal), concept.initializer
    print(f"{concept.placeholder}, {what}; its initializer_token is {start}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
