"""Whether a run that is started again has anything left to do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ti_flax.config import RunConfig
from ti_flax.config.run_config import GROUPS, OPTIONS
from ti_flax.config.values import options_of
from ti_flax.errors import DataError
from ti_flax.monitoring.report.facts import RunFacts
from ti_flax.training.checkpoint import checkpoint_steps

# The groups of options that say what is learned; others say where it goes and what is shown of it.
_WHAT_IS_LEARNED = ("model", "concept", "images", "prompts", "training", "optimizer", "loss")
# Of these, what may be another number for the same run.
_MAY_DIFFER = ("max_train_steps", "num_train_epochs")


def nothing_to_do(config: RunConfig, step: int, checkpoint: Path, output_dir: Path) -> str | None:
    """Why nothing is left to do for a run, as a line; None if something is, or it is not known yet.

    Args:
      config: of the run; without max_train_steps its length is not known.
      step: updates that its checkpoint has.
      checkpoint: the folder of that.
      output_dir: of the run.
    """
    total, until_done = config.training.total_steps, config.training.until_done
    if total == 0 or step < total and not until_done:
        return None
    if step > total:
        return (
            f"nothing to do: {checkpoint} has {step} steps, and max_train_steps is {total}; all files stay "
            f"as they are. max_train_steps {step} writes the result of that checkpoint, and more goes on."
        )
    if checkpoint_steps(output_dir)[-1:] != [step] or not is_finished(config, output_dir):
        return None
    steps = "a run that was done" if until_done else f"all {total} steps"
    return f"nothing to do: {output_dir} holds the result of {steps}"


def is_finished(config: RunConfig, output_dir: Path) -> bool:
    """Whether a run's folder holds all files of its result."""
    try:
        facts = RunFacts.read(output_dir)
    except DataError:
        return False
    as_long = facts.config.get("max_train_steps") == config.training.max_train_steps
    needed = ["learned_embeds.safetensors"] + ([] if config.output.only_save_embeds else ["model_index.json"])
    return facts.finished and as_long and all((output_dir / name).is_file() for name in needed)


def surely_the_same(config: RunConfig, before: Mapping[str, Any]) -> bool:
    """Whether a run's options show, with nothing read, that it learns what a checkpoint has learned.

    Args:
      config: of the run.
      before: the options that the checkpoint was made with, by name.
    """
    files = (config.concept.extra_embeds, *(each.init_embeds for each in config.concept.each))
    if any(each is not None for each in files):
        return False  # what these files hold counts
    now = config.to_dict()
    names = (each.name for group in _WHAT_IS_LEARNED for each in options_of(GROUPS[group]))
    return all(
        before.get(name, OPTIONS[name].default) == now[name]
        for name in names
        if name in now and name not in _MAY_DIFFER and (name, now[name]) != ("seed", None)
    )
