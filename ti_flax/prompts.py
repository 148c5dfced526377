"""The sentences a concept is trained in: CLIP's prompt templates, one drawn for each sample."""

from .errors import ConfigError

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
