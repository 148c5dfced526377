"""Every option of a run, in groups, with diffusers' names and defaults."""

from ti_flax.config.options.concept_list import ConceptListOptions
from ti_flax.config.options.images import ImageOptions
from ti_flax.config.options.inputs import (
    CHUNK_TOKENS,
    MOST_CHUNKS,
    ConceptOptions,
    ModelOptions,
    PromptOptions,
)
from ti_flax.config.options.outputs import HostOptions, HubOptions, MonitoringOptions, OutputOptions
from ti_flax.config.options.training import (
    ADAM_OPTIONS,
    DIRECTIONAL,
    FINDS_ITS_RATE,
    MOST_STEPS_UNTIL_DONE,
    SCHEDULE_FREE,
    WITHOUT_WARMUP,
    LossOptions,
    OptimizerOptions,
    TrainingOptions,
)

__all__ = [
    "ADAM_OPTIONS",
    "CHUNK_TOKENS",
    "DIRECTIONAL",
    "FINDS_ITS_RATE",
    "MOST_CHUNKS",
    "MOST_STEPS_UNTIL_DONE",
    "SCHEDULE_FREE",
    "WITHOUT_WARMUP",
    "ConceptListOptions",
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
    "MonitoringOptions",
]
