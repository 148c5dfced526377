"""The README.md of a run's folder, which is also the model card on the Hub."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ti_flax.config.options import ConceptOptions
from ti_flax.config.options.word import WordOptions
from ti_flax.console.messages import say
from ti_flax.embedding.file_names import file_of_word, word_stem
from ti_flax.embedding.usage import pipeline_code
from ti_flax.errors import one_line, unwritable
from ti_flax.export.hub_files import CONCEPT_IMAGES, EXAMPLE_IMAGES
from ti_flax.files.atomic import write_text
from ti_flax.files.written_files import CARD, record_text
from ti_flax.models.word_places import Concept

# Of the base: those of diffusers' two scripts.
_BASE_TAGS = ("stable-diffusion", "stable-diffusion-diffusers")
_BASE_TAGS_OF_SDXL = ("stable-diffusion-xl", "stable-diffusion-xl-diffusers")
_TAGS = (
    "text-to-image",
    "diffusers",
    "textual_inversion",
    "diffusers-training",
    "jax",
)
_CARD = """\
# {word}

A Textual Inversion concept ({kind}) for {base}: {count} of {width} numbers, learned from {images} in {steps}
of {batch} samples at learning rate {rate}, starting from {start}.
{words}{gallery}
## How to use it

{named} {word}.

With diffusers:

```python
{python}
```

{web_ui}

With ti_flax, which it was learned with:

```bash
python scripts/generate.py --pretrained_model_name_or_path {model_argument} \\
  --learned_embeds learned_embeds.safetensors --prompt {prompt_argument}{skip_argument}
```
{note}
## Training

The options that were not left at their defaults, without paths:

{fence}yaml
{settings}{fence}

`metrics.csv` has the loss over the steps.
"""

_WEB_UI = """\
In the Stable Diffusion Web UI, put `learned_embeds.safetensors` into the folder `embeddings` under a name of
its own, such as `{name}.safetensors`; `{name}` is then the word to use in prompts. In ComfyUI the folder is
`models/embeddings`, and the word is `embedding:{name}`."""
_WEB_UI_OF_SDXL = """\
In the Stable Diffusion Web UI, Forge and InvokeAI, put `{name}.safetensors`, which has the vectors of both
text encoders, into the folder `embeddings`; `{name}` is then the word to use in prompts. In ComfyUI the
folder is `models/embeddings`, and the word is `embedding:{name}`."""

_WEB_UI_OF_SEVERAL = """\
In the Stable Diffusion Web UI, put
{files}
into the folder `embeddings` under names of their own, such as {named};
{words} are then the words to use in prompts. In ComfyUI the folder is `models/embeddings`, and the
words are {embeddings}."""
_WEB_UI_OF_SEVERAL_FOR_SDXL = """\
In the Stable Diffusion Web UI, Forge and InvokeAI, put {named}, which have the vectors of both text encoders,
into the folder `embeddings`; {words} are then the words to use in prompts. In ComfyUI the folder is
`models/embeddings`, and the words are {embeddings}."""

_CLIP_SKIP = """
It was learned with `clip_skip={skip}`, which the Web UI calls "Clip skip" {number}: use it with the same.
"""


@dataclass(frozen=True)
class CardFacts:
    """What a card says of a run.

    Attributes:
      base: the base model: a repository, or a folder or file of this machine, as the user names it.
      kind: object or style.
      start: what the rows were before the first update, in words.
      starts: likewise, of each word.
      images: training images.
      width: numbers of a vector of the first text encoder.
      second_width: likewise of SDXL's second; 0 without one.
      step: updates made.
      total: updates of the run, if it goes on after these.
      batch: samples of an update.
      rate: the learning rate after `scale_lr`, in words.
      concept_images: how many files there are in `concept_images/`.
      examples: the prompts of the files in `example_images/`, in order.
      sheet: whether there is a contact sheet that the card may show.
      clip_skip: layers left out at the end of the text encoder.
      repository: where the result goes on the Hub; None if nowhere.
      license: in the Hub's spelling; None if none is named.
      settings: options of the learning and of the images that are not at their defaults, without paths.
    """

    base: str
    kind: str
    start: str
    images: int
    width: int
    step: int
    batch: int
    rate: str
    starts: tuple[str, ...] = ()
    second_width: int = 0
    total: int | None = None
    concept_images: int = 0
    examples: tuple[str, ...] = ()
    sheet: bool = False
    clip_skip: int = 0
    repository: str | None = None
    license: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def on_hub(self) -> bool:
        """Whether the base model is a repository; a path of this machine means nothing to others."""
        return not self._path.exists()

    @property
    def in_one_file(self) -> bool:
        """Whether the base model is one file."""
        return self._path.is_file()

    @property
    def base_shown(self) -> str:
        """The base model as others may see it."""
        return self.base if self.on_hub else one_line(self._path.resolve().name)

    @property
    def _path(self) -> Path:
        return Path(os.path.expanduser(self.base))


def write_model_card(folder: Path, concept: Concept, facts: CardFacts) -> None:
    """Writes `README.md`: what was learned from what, what it draws, and how to use it.

    Raises:
      OutputError: the folder cannot be written.
    """
    try:
        text = f"---\n{_front_matter(concept, facts)}---\n\n{_body(concept, facts)}"
        if record_text(folder, CARD, text):
            write_text(folder / CARD, text)
        else:
            say(f"note: {folder / CARD} has been edited, so it stays as it is")
    except OSError as error:
        raise unwritable(folder, error) from error


def _front_matter(concept: Concept, facts: CardFacts) -> str:
    """What the Hub reads: its search and its page of the model show these."""
    fields: dict[str, Any] = {}
    if facts.on_hub:
        fields["base_model"] = facts.base
    if facts.license is not None:
        fields["license"] = facts.license
    fields |= {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "instance_prompt": concept.name,
        "tags": [*(_BASE_TAGS_OF_SDXL if facts.second_width else _BASE_TAGS), *_TAGS],
    }
    if facts.examples:
        fields["widget"] = [
            {"text": prompt, "output": {"url": f"{EXAMPLE_IMAGES}/{index}.jpeg"}}
            for index, prompt in enumerate(facts.examples)
        ]
    return _yaml(fields)


def _body(concept: Concept, facts: CardFacts) -> str:
    skip, vectors, words = facts.clip_skip, len(concept.tokens), [*concept.vectors]
    base = facts.base_shown
    before = "a painting in the style of" if facts.kind == "style" else "a photo of a"
    prompt = f"{before} {concept.name}"
    # A repository is known by its owner and name once the Hub has named both.
    shared = facts.repository
    settings = _yaml(dict(facts.settings))
    return _CARD.format(
        word=" and ".join(map(code, words)),
        named="The words for it in prompts are" if words[1:] else "The word for it in prompts is",
        words="".join(_words(concept, facts)),
        kind=facts.kind,
        base=f"[{base}](https://huggingface.co/{base})" if facts.on_hub else f"the model {code(base)}",
        count="one vector" if vectors == 1 else f"{vectors} vectors",
        width=f"{facts.width} and {facts.second_width}" if facts.second_width else facts.width,
        images="one image" if facts.images == 1 else f"{facts.images} images",
        steps=_steps(facts),
        batch=facts.batch,
        rate=facts.rate,
        start=plain(facts.start),
        gallery="".join(_gallery(facts)),
        python=pipeline_code(
            base,
            prompt,
            loader="from_single_file" if facts.in_one_file else "from_pretrained",
            sdxl=facts.second_width > 0,
            repository=shared if shared and "/" in shared else None,
            clip_skip=skip or 0,
            words=words,
            note="" if facts.on_hub else "# The path of your copy of the model.\n",
        ),
        web_ui=_web_ui(words, sdxl=facts.second_width > 0),
        model_argument=shlex.quote(base),
        prompt_argument=shlex.quote(prompt),
        skip_argument=f" --clip_skip {skip}" if skip else "",
        note=_CLIP_SKIP.format(skip=skip, number=skip + 1) if skip else "",
        settings=settings,
        fence=fence_around(settings),
    )


def _words(concept: Concept, facts: CardFacts) -> Iterator[str]:
    """A table of several words, each with what it is and its file; nothing for one."""
    if len(concept.words) == 1:
        return
    yield "\n| word | vectors | started from | file |\n|---|---|---|---|\n"
    for (word, count), start in zip(concept.vectors.items(), facts.starts, strict=True):
        file = f"{word_stem(word)}.safetensors" if facts.second_width else file_of_word(word)
        named = code(word).replace("|", "\\|")
        yield f"| {named} | {count} | {plain(start)} | `{file}` |\n"
    yield "\n`learned_embeds.safetensors` has all of them.\n"


def _web_ui(words: Sequence[str], *, sdxl: bool) -> str:
    """What to do in programs that know a word by the name of its file."""
    stems = [word_stem(word) for word in words]
    if len(words) == 1:
        return (_WEB_UI_OF_SDXL if sdxl else _WEB_UI).format(name=stems[0])
    return (_WEB_UI_OF_SEVERAL_FOR_SDXL if sdxl else _WEB_UI_OF_SEVERAL).format(
        files=" and ".join(f"`{file_of_word(word)}`" for word in words),
        named=" and ".join(f"`{stem}.safetensors`" for stem in stems),
        words=" and ".join(f"`{stem}`" for stem in stems),
        embeddings=" and ".join(f"`embedding:{stem}`" for stem in stems),
    )


def code(text: str) -> str:
    """A text as Markdown's code, which it cannot end, so that nothing of it becomes markup."""
    marks = "`" * (_longest_run(text) + 1)
    room = " " if text[:1] == "`" or text[-1:] == "`" else ""
    return f"{marks}{room}{text}{room}{marks}"


def fence_around(text: str) -> str:
    """The line that begins and ends a block of code with that text in it."""
    return "`" * max(3, _longest_run(text) + 1)


def plain(text: str) -> str:
    """A text in Markdown that means nothing but itself: no HTML, no link, no emphasis."""
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", text)


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _gallery(facts: CardFacts) -> Iterator[str]:
    """The sections with images, for those that there are."""
    if facts.concept_images:
        some = "The" if facts.concept_images == facts.images else f"{facts.concept_images} of the"
        yield f"\n## What it was learned from\n\n{some} training images as the training saw them:\n\n"
        links = (f"![{index}]({CONCEPT_IMAGES}/{index}.jpeg)\n" for index in range(facts.concept_images))
        yield from links
    if facts.examples:
        yield "\n## What it draws\n\n<Gallery />\n"
    if facts.sheet:
        yield "\nThe training images, and the prompts before and after the training:\n\n"
        yield "![contact sheet](contact_sheet.png)\n"


def _steps(facts: CardFacts) -> str:
    if facts.total is not None:
        return f"{facts.step} of {facts.total} steps (the training goes on)"
    return "one step" if facts.step == 1 else f"{facts.step} steps"


def start_in_words(options: ConceptOptions) -> str:
    """What the words of a concept start as: `the word "cat" for <cat> and random vectors for <hat>`."""
    several = len(options.words) > 1
    return " and ".join(
        word_start(each) + (f" for {each.placeholder_token}" if several else "") for each in options.each
    )


def word_start(options: WordOptions) -> str:
    """What a word starts as: `the word "cat"`."""
    if options.initializer_mode == "random":
        return "random vectors"
    if options.init_embeds is not None:
        source = f"the embedding {Path(options.init_embeds).name}"
    else:
        text = options.initializer_token or ""
        source = f'the words "{text}"' if " " in text else f'the word "{text}"'
    return f"the mean of {source}" if options.initializer_mode == "mean" else source


def _yaml(fields: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=10**6)
