"""The README.md of a run's folder, which is also the model card on the Hub."""

from __future__ import annotations

from pathlib import Path

from ti_flax.config import RunConfig
from ti_flax.config.options import ConceptOptions
from ti_flax.tokens import Concept

_CARD = """\
---
base_model: {base}
library_name: diffusers
pipeline_tag: text-to-image
tags:
- stable-diffusion
- stable-diffusion-diffusers
- text-to-image
- diffusers
- textual_inversion
- diffusers-training
- jax
---

# {token}

A Textual Inversion concept ({kind}) for `{base}`: {count} of {width} numbers, learned from {images} in
{steps} steps of {batch} samples at learning rate {rate}, starting from {start}.

Use it with diffusers:

```python
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.{load}("{base}")
pipe.load_textual_inversion("learned_embeds.safetensors")
pipe("{prompt}"{skip}).images[0].save("picture.png")
```
{note}
In the Stable Diffusion Web UI and in ComfyUI, put `learned_embeds.safetensors` into the folder for
embeddings under a name of its own; the file's name is then the word to use in prompts.
"""

_CLIP_SKIP = """
It was learned with `clip_skip={skip}`, which the Web UI calls "Clip skip" {number}: use it with the same.
"""


def _start(options: ConceptOptions) -> str:
    if options.initializer_mode == "random":
        return "random vectors"
    if options.init_embeds is not None:
        source = f"the embedding {Path(options.init_embeds).name}"
    else:
        text = options.initializer_token or ""
        source = f'the words "{text}"' if " " in text else f'the word "{text}"'
    return f"the mean of {source}" if options.initializer_mode == "mean" else source


def write_model_card(
    output_dir: Path,
    config: RunConfig,
    concept: Concept,
    *,
    images: int,
    width: int,
    steps: int,
    batch: int,
    rate: str,
) -> None:
    """Writes `README.md`: what was learned from what, and how to use it."""
    base, clip_skip = config.model.pretrained_model_name_or_path, config.model.clip_skip
    vectors = len(concept.tokens)
    style = config.concept.learnable_property == "style"
    card = _CARD.format(
        base=base,
        load="from_single_file" if Path(base).is_file() else "from_pretrained",
        skip=f", clip_skip={clip_skip}" if clip_skip else "",
        note=_CLIP_SKIP.format(skip=clip_skip, number=clip_skip + 1) if clip_skip else "",
        token=concept.placeholder_token,
        kind=config.concept.learnable_property,
        count="one vector" if vectors == 1 else f"{vectors} vectors",
        width=width,
        images="one picture" if images == 1 else f"{images} pictures",
        steps=steps,
        batch=batch,
        rate=rate,
        start=_start(config.concept),
        prompt=f"a painting in the style of {concept.placeholder_token}"
        if style
        else f"a photo of a {concept.placeholder_token}",
    )
    (output_dir / "README.md").write_text(card)
