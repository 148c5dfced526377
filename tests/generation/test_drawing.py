"""Prompts drawn again and again: every image by its own prompt, negative prompt and seed."""

import types

import numpy as np

from ti_flax.generation.drawing import Drawing, DrawnPrompts
from ti_flax.generation.generator import PromptTokens


class Begun(dict):
    """Programs that are all there."""

    def __contains__(self, key):
        return True

    def __missing__(self, key):
        return types.SimpleNamespace(program=lambda: None, ended=True)


class Recorder:
    """Draws images whose red is the prompt's id, green the negative's and blue the seed."""

    def generate(self, params, rows, *, prompt_ids, negative_ids, seeds, size, **others):
        colours = np.stack([prompt_ids[:, 0], negative_ids[:, 0], seeds], axis=1).astype(np.uint8)
        return np.broadcast_to(colours[:, None, None], (len(seeds), *size, 3))


def prompts(ids, negatives, seeds):
    columns = (np.asarray(each, np.int32)[:, None] for each in (ids, negatives))
    return DrawnPrompts(*map(PromptTokens, columns), seeds)


def test_each_prompt_has_its_own_negative_prompt_and_seeds():
    given = prompts([10, 20, 30], [1, 2, 1], [5, 100, 5])
    drawing = Drawing(
        Recorder(),
        {},
        prompts=given,
        images=3,
        size=(2, 2),
        devices=["one", "two"],
        added={},
        programs=Begun(),
    )
    counted = []
    shown = types.SimpleNamespace(advance=counted.append)
    found = drawing({}, shown)
    assert found.shape == (3, 3, 2, 2, 3) and sum(counted) == 9
    expected = [[10, 1, 5], [20, 2, 100], [30, 1, 5]]
    for image in range(3):
        np.testing.assert_array_equal(found[:, image, 0, 0], np.add(expected, [0, 0, image]))
    other = drawing.draw(prompts([7], [8], [9]), 2, {}, shown)
    np.testing.assert_array_equal(other[0, :, 0, 0], [[7, 8, 9], [7, 8, 10]])
