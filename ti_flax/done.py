"""Whether a run that is started again has anything left to do."""

from __future__ import annotations

from pathlib import Path

from ti_flax.checkpoint import checkpoint_steps
from ti_flax.config import RunConfig
from ti_flax.errors import DataError
from ti_flax.report.facts import RunFacts


def nothing_to_do(config: RunConfig, step: int, checkpoint: Path, output_dir: Path) -> str | None:
    """Why nothing is left to do for a run, as a line; None if something is, or it is not known yet.

    Args:
      config: of the run; without max_train_steps its length is not known.
      step: updates that its checkpoint has.
      checkpoint: the folder of that.
      output_dir: of the run.
    """
    total = config.training.max_train_steps
    if total is None or step < total:
        return None
    if step > total:
        return (
            f"nothing to do: {checkpoint} has {step} steps, and the run ends at step {total}; all files stay "
            f"as they are. A larger max_train_steps goes on, and {step} writes the result of this checkpoint."
        )
    if checkpoint_steps(output_dir)[-1:] != [step] or not is_finished(config, output_dir):
        return None
    return f"nothing to do: {output_dir} holds the result of all {total} steps"


def is_finished(config: RunConfig, output_dir: Path) -> bool:
    """Whether a run's folder holds all files of its result."""
    try:
        facts = RunFacts.read(output_dir)
    except DataError:
        return False
    needed = ["learned_embeds.safetensors"] + ([] if config.output.only_save_embeds else ["model_index.json"])
    as_long = facts.config.get("max_train_steps") == config.training.max_train_steps
    return facts.finished and as_long and all((output_dir / name).is_file() for name in needed)
