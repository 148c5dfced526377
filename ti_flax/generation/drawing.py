"""Images of the same prompts and seeds, drawn again and again while the rows change."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ti_flax.console.messages import Stage
from ti_flax.embedding.rows import Rows
from ti_flax.generation.generator import ImageGenerator, PromptTokens
from ti_flax.hosts.compilation import Compilation, shapes_in


class DrawnPrompts(NamedTuple):
    """Prompts, and what each of them is drawn with.

    Attributes:
      positive: `[prompts, tokens]`.
      negative: what each moves away from, likewise.
      seeds: that of each prompt's first image; the others have the next ones.
    """

    positive: PromptTokens
    negative: PromptTokens
    seeds: Sequence[int]


class Drawing:
    """Draws some images of each prompt with given rows; its program is compiled in a thread.

    Args:
      generator: that draws.
      params: of the model's components, on the generator's devices.
      prompts: to draw, all with as many tokens, as have all their negative prompts.
      images: of each prompt.
      size: height and width of the images, in pixels.
      guidance_scale: 1 is no guidance.
      devices: of the generator.
      added: rows beside the token tables, by text encoder, `[added_tokens, width]`; only shapes count.
      after: a program that is needed sooner.
      programs: those that are there or begun, by shapes; another concept's serve as well.
    """

    def __init__(
        self,
        generator: ImageGenerator,
        params: Mapping[str, Any],
        *,
        prompts: DrawnPrompts,
        images: int,
        size: tuple[int, int],
        guidance_scale: float = 7.5,
        devices: Sequence[Any],
        added: Rows,
        after: Compilation | None = None,
        programs: MutableMapping[Any, Compilation] | None = None,
    ):
        self._generator, self._params, self._size = generator, params, size
        self._prompts, self._images, self._guidance_scale = prompts, images, guidance_scale
        self._at_once = len(devices) * -(-images // len(devices))
        batch = np.zeros(self._at_once, np.int32)
        given = prompts.positive.at(batch), prompts.negative.at(batch)
        programs = {} if programs is None else programs
        what, shapes = "the previews", shapes_in((added, given))
        key = what, generator, size, shapes
        if key not in programs:
            lower = partial(generator.lower, params, added, *given, size)
            programs[key] = Compilation(lower, devices, what=what, after=after)
        self._compiling = programs[key]

    def ready(self) -> bool:
        """Whether it can be called without waiting for the compilation."""
        return self._compiling.ended

    def __call__(self, rows: Rows, shown: Stage) -> np.ndarray:
        """Draws all images, and counts them.

        Args:
          rows: `[added_tokens, width]` float32 for each text encoder, by name.
          shown: the stage that counts them.

        Returns:
          `[prompts, images, height, width, 3]` uint8.
        """
        return self.draw(self._prompts, self._images, rows, shown)

    @property
    def tokens(self) -> tuple[int, int]:
        """How many tokens its program takes of a prompt, and of a negative prompt."""
        return self._prompts.positive.ids.shape[1], self._prompts.negative.ids.shape[1]

    def draw(self, prompts: DrawnPrompts, images: int, rows: Rows, shown: Stage) -> np.ndarray:
        """Draws other prompts by the same program.

        Args:
          prompts: of `tokens` each, with weights if those of the program have some.
          images: of each prompt.
          rows: `[added_tokens, width]` float32 for each text encoder, by name.
          shown: the stage that counts them.

        Returns:
          `[prompts, images, height, width, 3]` uint8.
        """
        program, total, drawn = self._compiling.program(), len(prompts.seeds) * images, []
        for start in range(0, total, self._at_once):
            # All batches have one size, so that there is one program; what is too much is drawn for nothing.
            places = np.minimum(np.arange(start, start + self._at_once), total - 1)
            given, negatives = prompts.positive.at(places // images), prompts.negative.at(places // images)
            seeds = np.asarray(prompts.seeds)[places // images] + places % images
            drawn += list(
                self._generator.generate(
                    self._params,
                    rows,
                    prompt_ids=given.ids,
                    negative_ids=negatives.ids,
                    seeds=seeds.tolist(),
                    size=self._size,
                    guidance_scale=self._guidance_scale,
                    prompt_weights=given.weights,
                    negative_weights=negatives.weights,
                    program=program,
                )
            )
            shown.advance(min(self._at_once, total - start))
        stacked = np.stack(drawn[:total])
        return stacked.reshape(len(prompts.seeds), images, *stacked.shape[1:])
