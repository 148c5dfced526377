"""What the previews of a run show: the prompts of its options, or those of a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ti_flax.config import RunConfig
from ti_flax.config.options import MonitoringOptions
from ti_flax.config.picture_size import LONGEST, STEP, picture_size
from ti_flax.errors import ConfigError, DataError
from ti_flax.generation.prompt_file import PromptLine, read_prompt_file
from ti_flax.models.prompts.encode import PromptRules

# What one program has for all images that it draws, and the options of a line that say it.
_SHARED = {
    "validation_size": "--w and --h",
    "validation_num_inference_steps": "--s",
    "validation_sampler": "--ss",
    "validation_guidance_scale": "--l",
}
_OWN = ("validation_negative_prompt", "validation_seed")


@dataclasses.dataclass(frozen=True)
class PreviewPrompt:
    """One prompt of the previews.

    Attributes:
      text: with the concept's words in it.
      negative: what its images move away from.
      seed: of its first image; the others have the next ones.
      where: the option, or the file and line, that it comes from.
      negative_where: likewise of the negative prompt.
    """

    text: str
    negative: str
    seed: int
    where: str
    negative_where: str


@dataclasses.dataclass(frozen=True)
class PreviewPrompts:
    """The prompts of the previews, and how they are drawn.

    Attributes:
      each: the prompts; none in a run without previews.
      options: the run's, with what the lines of a file say in their place; None of what its lines differ in.
      size: height and width in pixels.
    """

    each: tuple[PreviewPrompt, ...]
    options: MonitoringOptions
    size: tuple[int, int]

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompts alone."""
        return tuple(prompt.text for prompt in self.each)


def read_preview_prompts(config: RunConfig) -> PreviewPrompts:
    """Reads what the previews of a run show.

    Args:
      config: of one concept, with its seed.

    Raises:
      DataError: there is no such file, or its prompts cannot be drawn by one program.
    """
    lines = _lines(config)
    drawn = [_with_line(config, line) for line in lines]
    _require_one_program(lines, drawn, config)
    options = config.monitoring
    if drawn:
        own = {name: _common([getattr(each, name) for each in drawn]) for name in _OWN}
        options = dataclasses.replace(drawn[0], **own)
    return PreviewPrompts(
        tuple(_prompt(config, line, each) for line, each in zip(lines, drawn, strict=True)),
        options,
        _size(options, config),
    )


def prompt_rules(config: RunConfig) -> PromptRules:
    """How the prompts of images that a run draws are read."""
    return PromptRules(config.prompts.chunks, config.monitoring.prompt_weights)


def first_seed(config: RunConfig) -> int:
    """The seed of a prompt's first image, for prompts that say none."""
    said = config.monitoring.validation_seed
    return (config.training.seed or 0) if said is None else said


def _lines(config: RunConfig) -> list[PromptLine]:
    path = config.monitoring.validation_prompt_file
    if path is not None:
        return read_prompt_file(Path(path), "validation_prompt_file")
    return [PromptLine(text, where="validation_prompt") for text in config.validation_prompts]


def _with_line(config: RunConfig, line: PromptLine) -> MonitoringOptions:
    """The options of previews as one line has them."""
    said: dict[str, Any] = {
        "validation_seed": line.seed,
        "validation_num_inference_steps": line.steps,
        "validation_sampler": line.sampler,
        "validation_guidance_scale": line.guidance_scale,
    }
    said = {name: value for name, value in said.items() if value is not None}
    if line.negative_prompt is not None:
        said["validation_negative_prompt"] = line.negative_prompt or None
    if not line.width is line.height is None:
        height, width = config.preview_size
        width = width if line.width is None else line.width
        height = height if line.height is None else line.height
        said["validation_size"] = f"{width}x{height}"
        if picture_size(said["validation_size"]) is None:
            expected = f"sides that are multiples of {STEP}, up to {LONGEST}"
            raise DataError(f"{line.where}, --w and --h", expected=expected, found=said["validation_size"])
    try:
        return dataclasses.replace(config.monitoring, **said)
    except ConfigError as error:
        raise DataError(f"{line.where}: {error}") from None


def _require_one_program(
    lines: Sequence[PromptLine], drawn: Sequence[MonitoringOptions], config: RunConfig
) -> None:
    of_each = [_shared(options, config) for options in drawn]
    for line, values in zip(lines, of_each, strict=True):
        for name, letters in _SHARED.items():
            if values[name] != of_each[0][name]:
                raise DataError(
                    line.where,
                    expected=f"{name} {of_each[0][name]}, the first prompt's, as one program draws all",
                    found=f"{values[name]}",
                    remedy=f"Give all lines the same {letters}, or none.",
                )


def _shared(options: MonitoringOptions, config: RunConfig) -> Mapping[str, Any]:
    height, width = _size(options, config)
    return {name: getattr(options, name) for name in _SHARED} | {"validation_size": f"{width}x{height}"}


def _size(options: MonitoringOptions, config: RunConfig) -> tuple[int, int]:
    return picture_size(options.validation_size or "") or config.preview_size


def _common(values: Sequence[Any]) -> Any:
    return values[0] if len({*values}) == 1 else None


def _prompt(config: RunConfig, line: PromptLine, options: MonitoringOptions) -> PreviewPrompt:
    seed = first_seed(config) if options.validation_seed is None else options.validation_seed
    negative = config.with_words(options.validation_negative_prompt or "")
    negative_where = "validation_negative_prompt" if line.negative_prompt is None else f"{line.where}, --n"
    return PreviewPrompt(config.with_words(line.prompt), negative, seed, line.where, negative_where)
