"""Images of the same prompts and seeds, drawn again and again while the rows change."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ti_flax.console.messages import Stage
from ti_flax.embedding.rows import Rows
from ti_flax.generation.generator import ImageGenerator
from ti_flax.hosts.compilation import Compilation, shapes_in


class Drawing:
    """Draws some images of each prompt with given rows; its program is compiled in a thread.

    Args:
      generator: that draws.
      params: of the model's components, on the generator's devices.
      prompt_ids: `[prompts, tokens]` int32.
      negative_ids: `[tokens]` int32, of the empty prompt.
      images: of each prompt.
      first_seed: that of each prompt's first image; the others have the next ones.
      side: of the images, in pixels.
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
        prompt_ids: np.ndarray,
        negative_ids: np.ndarray,
        images: int,
        first_seed: int,
        side: int,
        devices: Sequence[Any],
        added: Rows,
        after: Compilation | None = None,
        programs: MutableMapping[Any, Compilation] | None = None,
    ):
        self._generator, self._params, self._size = generator, params, (side, side)
        self._prompt_ids, self._negative_ids = prompt_ids, negative_ids
        self._images, self._first_seed = images, first_seed
        self._at_once = len(devices) * -(-images // len(devices))
        ids = np.broadcast_to(negative_ids, (self._at_once, len(negative_ids)))
        programs = {} if programs is None else programs
        what, shapes = "the previews", shapes_in((added, ids, negative_ids))
        if (what, self._size, shapes) not in programs:
            lower = partial(generator.lower, params, added, ids, self._size)
            programs[what, self._size, shapes] = Compilation(lower, devices, what=what, after=after)
        self._compiling = programs[what, self._size, shapes]

    def ready(self) -> bool:
        """Whether it can be called without waiting for the compilation."""
        return self._compiling.ended

    def __call__(self, rows: Rows, shown: Stage) -> np.ndarray:
        """Draws all images, and counts them.

        Args:
          rows: `[added_tokens, width]` float32 for each text encoder, by name.
          shown: the stage that counts them.

        Returns:
          `[prompts, images, side, side, 3]` uint8.
        """
        return self.draw(self._prompt_ids, self._images, rows, shown)

    def draw(self, prompt_ids: np.ndarray, images: int, rows: Rows, shown: Stage) -> np.ndarray:
        """Draws other prompts by the same program, from the same seeds.

        Args:
          prompt_ids: `[prompts, tokens]` int32.
          images: of each prompt.
          rows: `[added_tokens, width]` float32 for each text encoder, by name.
          shown: the stage that counts them.

        Returns:
          `[prompts, images, side, side, 3]` uint8.
        """
        program, total, drawn = self._compiling.program(), len(prompt_ids) * images, []
        for start in range(0, total, self._at_once):
            # All batches have one size, so that there is one program; what is too much is drawn for nothing.
            places = np.minimum(np.arange(start, start + self._at_once), total - 1)
            drawn += list(
                self._generator.generate(
                    self._params,
                    rows,
                    prompt_ids=prompt_ids[places // images],
                    negative_ids=np.broadcast_to(self._negative_ids, (len(places), len(self._negative_ids))),
                    seeds=(self._first_seed + places % images).tolist(),
                    size=self._size,
                    program=program,
                )
            )
            shown.advance(min(self._at_once, total - start))
        stacked = np.stack(drawn[:total])
        return stacked.reshape(len(prompt_ids), images, *stacked.shape[1:])
