"""The sentences a concept is trained in: CLIP's prompt templates or one's own, around captions or not."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ti_flax.config.words import TEMPLATE_PLACES, spelled_plainly
from ti_flax.errors import ConfigError, DataError
from ti_flax.files.text import read_text

OBJECT_TEMPLATES = (
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a photo of a clean {}",
    "a photo of a dirty {}",
    "a dark photo of the {}",
    "a photo of my {}",
    "a photo of the cool {}",
    "a close-up photo of a {}",
    "a bright photo of the {}",
    "a cropped photo of a {}",
    "a photo of the {}",
    "a good photo of the {}",
    "a photo of one {}",
    "a close-up photo of the {}",
    "a rendition of the {}",
    "a photo of the clean {}",
    "a rendition of a {}",
    "a photo of a nice {}",
    "a good photo of a {}",
    "a photo of the nice {}",
    "a photo of the small {}",
    "a photo of the weird {}",
    "a photo of the large {}",
    "a photo of a cool {}",
    "a photo of a small {}",
)
"""Templates for a thing (arXiv:2208.01618, appendix; the list that trainers of the method share)."""

# Two templates stand twice in the list in use everywhere; kept, so that draws have the same odds.
STYLE_TEMPLATES = (
    "a painting in the style of {}",
    "a rendering in the style of {}",
    "a cropped painting in the style of {}",
    "the painting in the style of {}",
    "a clean painting in the style of {}",
    "a dirty painting in the style of {}",
    "a dark painting in the style of {}",
    "a picture in the style of {}",
    "a cool painting in the style of {}",
    "a close-up painting in the style of {}",
    "a bright painting in the style of {}",
    "a cropped painting in the style of {}",
    "a good painting in the style of {}",
    "a close-up painting in the style of {}",
    "a rendition in the style of {}",
    "a nice painting in the style of {}",
    "a small painting in the style of {}",
    "a weird painting in the style of {}",
    "a large painting in the style of {}",
)
"""Templates for a manner of painting."""

TEMPLATES = {"object": OBJECT_TEMPLATES, "style": STYLE_TEMPLATES}


def training_prompts(concept_text: str, learnable_property: str) -> list[str]:
    """Fill the concept into every template of its kind.

    Args:
      concept_text: what stands for the concept, as the tokenizer shall read it ("<cat-toy> <cat-toy>_1").
      learnable_property: "object" or "style".

    Returns:
      27 prompts for an object, 19 for a style, in the order of the templates.

    Raises:
      ConfigError: learnable_property is something else.
    """
    if learnable_property not in TEMPLATES:
        raise ConfigError(
            "learnable_property",
            expected=" or ".join(TEMPLATES),
            found=repr(learnable_property),
            remedy="Use object for a thing and style for a manner of painting.",
        )
    return [template.format(concept_text) for template in TEMPLATES[learnable_property]]


_WORD = re.compile(r"\[name\]|\{\}")
_CAPTION = "[filewords]"


@dataclass(frozen=True)
class Template:
    """One pattern of prompts.

    Attributes:
      text: `[name]` or `{}` stands for the word, `[filewords]` for the caption.
      plain: the pattern for a caption that is empty or left out.
      where: file and line, for messages; empty for a built-in one.
      names: whether it names one of several words itself.
    """

    text: str
    plain: str
    where: str = ""
    names: bool = False

    @property
    def has_word(self) -> bool:
        return self.names or bool(_WORD.search(self.text))

    @property
    def has_caption(self) -> bool:
        return _CAPTION in self.text


def built_in_templates(name: str, *, captions: bool) -> tuple[Template, ...]:
    """Return a built-in set.

    With captions the caption follows an object's template ("a photo of a {}, [filewords]") and stands before
    the manner of a style's ("a painting of [filewords] in the style of {}").

    Args:
      name: "object", "style", or "caption": the caption and nothing else.
      captions: whether there are captions.
    """
    if name == "caption":
        return (Template(_CAPTION, "[name]"),)
    plain = TEMPLATES[name]
    if not captions:
        return tuple(Template(text, text) for text in plain)
    if name == "object":
        return tuple(Template(f"{text}, {_CAPTION}", text) for text in plain)
    return tuple(
        Template(text.replace(" in the style of", f" of {_CAPTION} in the style of"), text) for text in plain
    )


def read_templates(path: str, *, captions: bool, words: Sequence[str] = ()) -> tuple[Template, ...]:
    """Read a template file: one template a line, lines that begin with `#` left out.

    Args:
      path: of the file.
      captions: whether there are captions for `[filewords]`.
      words: of the concept; of several, a template may name one instead of having a place for all.

    Raises:
      DataError: it cannot be read or holds no templates, or one has no place for the word, or one for a
        caption where there are none.
    """
    where = f"template_file {path}"
    lines = enumerate(read_text(path, where).splitlines(), start=1)
    made = [
        _template(line.strip(), f"{where}:{number}", captions, words)
        for number, line in lines
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not made:
        raise DataError(where, expected="a template a line, such as `a photo of a [name]`", found="none")
    return tuple(made)


def own_templates(texts: Sequence[str], *, captions: bool, words: Sequence[str] = ()) -> tuple[Template, ...]:
    """Make templates of the texts of prompt_template; arguments as of `read_templates`.

    Raises:
      DataError: one has no place for the word, or one for a caption where there are none.
    """
    return tuple(_template(text, "prompt_template", captions, words) for text in texts)


def _template(text: str, where: str, captions: bool, words: Sequence[str]) -> Template:
    plain = spelled_plainly(text)
    names = len(words) > 1 and any(spelled_plainly(word) in plain for word in words)
    if _CAPTION in text and not captions:
        raise DataError(
            where,
            expected="no [filewords] without captions",
            found=repr(text),
            remedy="Set captions to files, filename, metadata or caption_file, or take [filewords] out.",
        )
    if not (names or TEMPLATE_PLACES.search(text)):
        raise DataError(
            where,
            expected="[name] or {}, where the word goes",
            found=repr(text),
            remedy="Nothing would be learned from it: write the place into it, or take the line out.",
        )
    has_word = names or _WORD.search(text)
    return Template(text, tidied(text.replace(_CAPTION, "")) if has_word else "[name]", where, names)


def fill(template: Template, words: Sequence[str], caption: str) -> str:
    """Make a prompt.

    Args:
      template: its pattern.
      words: what stands for each word of the concept, with all its vectors.
      caption: with the words already so where the caption names them; "" for none.

    Returns:
      The prompt, in which the words stand as often as in the template or, where the caption names one, as in
      the caption: that one then is the prompt alone, unless the template leaves the word to it.
    """
    pattern = template.text if caption else template.plain
    named = any(word in caption for word in words)
    if template.has_caption and named and _WORD.search(template.text):
        return caption
    every = " and ".join(words)
    return TEMPLATE_PLACES.sub(lambda place: caption if place[0] == _CAPTION else every, pattern)


def tidied(text: str) -> str:
    """Return a text without doubled blanks, and without commas that nothing stands before or behind."""
    parts = [" ".join(part.split()) for part in text.split(",")]
    return ", ".join(part for part in parts if part)


def without_word(templates: Sequence[Template]) -> Template | None:
    """Return the first template that leaves the word to the caption, or None."""
    return next((template for template in templates if not template.has_word), None)
