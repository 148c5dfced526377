"""Every option of a run, in groups, with diffusers' names and defaults."""

from ti_flax.config.options.learning import (
    ADAM_OPTIONS,
    FINDS_ITS_RATE,
    SCHEDULE_FREE,
    SCHEDULER_OPTIONS,
    WITHOUT_WARMUP,
    LossOptions,
    OptimizerOptions,
    TrainingOptions,
)
from ti_flax.config.options.surroundings import HostOptions, HubOptions, OutputOptions, WatchingOptions
from ti_flax.config.options.teaching import ConceptOptions, ImageOptions, ModelOptions, PromptOptions

__all__ = [
    "ADAM_OPTIONS",
    "FINDS_ITS_RATE",
    "SCHEDULER_OPTIONS",
    "SCHEDULE_FREE",
    "WITHOUT_WARMUP",
    "ConceptOptions",
    "HostOptions",
    "HubOptions",
    "ImageOptions",
    "LossOptions",
    "ModelOptions",
    "OptimizerOptions",
    "OutputOptions",
    "PromptOptions",
    "TrainingOptions",
    "WatchingOptions",
]
