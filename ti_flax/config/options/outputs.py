"""What happens around the updates: files, previews, uploads, hosts."""

import dataclasses
from typing import Literal

from ti_flax.config.options.group import Options
from ti_flax.config.values import option
from ti_flax.console.messages import Level

# What options of previews do nothing without.
_WITH_PREVIEWS = "validation_prompt or validation_prompt_file"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputOptions(Options):
    """What to write where, and how to resume a run."""

    output_dir: str = option(
        "text-inversion-model",
        metavar="FOLDER",
        path="output",
        brief="where everything goes",
        help="Folder for everything that the run writes.",
    )
    save_steps: int = option(
        500, at_least=1, help="Steps between two learned_embeds-steps-N files.", per_concept=True
    )
    only_save_embeds: bool = option(
        False, help="Write only learned_embeds files at the end, not the whole pipeline (gigabytes)."
    )
    overwrite_output_dir: bool = option(
        False,
        help="Start again in a folder with a run in it and delete that run's files; files that no run wrote "
        "stay as they are.",
        excludes=("resume_from_checkpoint",),
    )
    checkpointing_steps: int = option(500, at_least=1, help="Steps between two checkpoints to resume from.")
    checkpoints_total_limit: int | None = option(
        None, at_least=1, when_unset="all are kept", help="Checkpoints to keep; the run deletes older ones."
    )
    resume_from_checkpoint: str | None = option(
        None,
        metavar="NAME",
        path="output",
        when_unset="a new run",
        brief="go on with a stopped run: auto",
        help='Checkpoint to continue from: "auto" (or "latest"), the newest whole one if there is any yet; '
        "or a name or path such as checkpoint-500.",
    )
    dry_run: bool = option(
        False,
        brief="show images, prompts, memory and downloads; train nothing",
        help="Find all that a run would find wrong before it compiles, show images, prompts, memory, disk "
        "and downloads, and end: no weights are read, and the one file written is a sheet of the images "
        "beside output_dir.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MonitoringOptions(Options):
    """Previews, evaluations and curves during training."""

    validation_prompt: tuple[str, ...] | None = option(
        None,
        metavar="PROMPT",
        when_unset="no previews",
        brief='draw previews of it, such as "a {} on a beach"',
        help='Prompt of the preview images, such as "a <cat-toy> on a beach"',
        per_concept=True,
    )
    validation_prompt_file: str | None = option(
        None,
        metavar="FILE",
        path="input",
        when_unset="the prompts of validation_prompt",
        help="Text file with a prompt of the preview images a line, {} for the word; kohya's --n, --d, --w, "
        "--h, --s, --l and --ss may follow it, and lines that begin with # are left out.",
        excludes=("validation_prompt",),
        per_concept=True,
    )
    num_validation_images: int = option(
        4,
        at_least=1,
        at_most=256,
        help="Images of each prompt.",  # one grid holds them all
        only_with=_WITH_PREVIEWS,
    )
    validation_negative_prompt: str | None = option(
        None,
        metavar="PROMPT",
        when_unset="an empty one",
        help="What the preview images move away from.",
        only_with=_WITH_PREVIEWS,
        per_concept=True,
    )
    validation_size: str | None = option(
        None,
        metavar="WxH",
        when_unset="resolution, square",
        help="Width and height of the preview images in pixels, such as 512x768.",
        only_with=_WITH_PREVIEWS,
    )
    validation_seed: int | None = option(
        None,
        at_least=0,
        at_most=2**32 - 1,
        when_unset="seed",
        help="Seed of the first preview image of each prompt; the next ones count up.",
        only_with=_WITH_PREVIEWS,
    )
    validation_sampler: Literal["ddim", "dpmsolver++", "euler"] = option(
        "dpmsolver++",
        help="Sampler of the preview images.",
        only_with=_WITH_PREVIEWS,
    )
    validation_num_inference_steps: int = option(
        25,
        at_least=1,
        at_most=1000,
        help="Denoising steps of a preview image.",
        only_with=_WITH_PREVIEWS,
    )
    validation_guidance_scale: float = option(
        7.5,
        at_least=0,
        help="How far the preview images move away from the negative prompt; 1 is no guidance.",
        only_with=_WITH_PREVIEWS,
    )
    prompt_weights: bool = option(
        False,
        help="Read (word:1.2), (word), [word] and BREAK in prompts of previews as the Web UI does; training "
        "prompts stay plain text.",
        only_with=_WITH_PREVIEWS,
    )
    validation_steps: int = option(
        100,
        at_least=1,
        help="Steps between two previews.",
        only_with=_WITH_PREVIEWS,
        per_concept=True,
    )
    validation_epochs: int | None = option(
        None,
        at_least=1,
        when_unset="validation_steps counts",
        help="Old spelling of validation_steps: previews every N x images x repeats steps.",
        only_with=_WITH_PREVIEWS,
        per_concept=True,
    )
    profile: str | None = option(
        None,
        metavar="FOLDER",
        path="output",
        when_unset="no trace",
        help="Write a trace of some steps, for TensorBoard and ui.perfetto.dev.",
    )
    eval_steps: int | None = option(
        None,
        at_least=0,
        when_unset="chosen so that evaluations take about a twentieth of the run",
        help="Steps between two evaluations: validation loss, the vectors' norms, cosines and nearest words, "
        "in signals.csv; 0 leaves them out.",
        per_concept=True,
    )
    max_eval_samples: int | None = option(
        None,
        at_least=1,
        at_most=100_000,  # rows of a table that is made of them
        when_unset="32 to 64, by the length of the run",
        help="About how many samples the validation loss averages over, the same ones every time.",
        excludes=("eval_steps 0",),
    )
    sensitivity_prompts: tuple[str, ...] | None = option(
        None,
        metavar="PROMPT",
        when_unset='"a photo of a {}" and eight settings, or for a style eight subjects',
        help="Prompts with {} for the word, a plain one and then others that say more: how far predictions "
        "for them lie from those for the plain one tells whether the word drowns the rest of a prompt.",
        excludes=("eval_steps 0",),
        per_concept=True,
    )
    load_best_model_at_end: bool = option(
        False,
        help="Make the vectors with the smallest validation loss that do not drown the rest of a prompt the "
        "result, not the last ones.",
        excludes=("eval_steps 0",),
        per_concept=True,
    )
    early_stopping: bool = option(
        False,
        help="Stop the run when the validation loss no longer falls, or the word drowns the rest of prompts; "
        "everything is written as usual.",
        excludes=("eval_steps 0",),
        per_concept=True,
    )
    early_stopping_patience: int | None = option(
        None,
        at_least=1,
        when_unset="5",
        help="Evaluations that are no better than the best before, after which the run stops.",
        needs=("early_stopping",),
        per_concept=True,
    )
    early_stopping_threshold: float | None = option(
        None,
        at_least=0,
        when_unset="0",
        help="How much smaller a validation loss has to be to count.",
        needs=("early_stopping",),
        per_concept=True,
    )
    log_every: int = option(
        1,
        at_least=1,
        help="Steps between two rows of metrics.csv and points of the curves, which are means over them.",
    )
    report_to: tuple[
        Literal[
            "none", "all", "tensorboard", "wandb", "comet_ml", "mlflow", "aim", "clearml", "dvclive",
            "swanlab", "trackio",
        ],
        ...,
    ] = option(
        ("tensorboard",),
        metavar="NAME",
        remedy="metrics.csv is written in any case.",
        help="Where curves and previews go besides output_dir, as far as installed (all), or by name; "
        "tensorboard needs the package tensorboardX",
    )  # fmt: skip
    logging_dir: str = option(
        "logs", metavar="FOLDER", path="output", help="Folder in output_dir for trackers that write files."
    )
    quiet: bool = option(False, short="q", help="Print only warnings and errors.", excludes=("verbose",))
    verbose: bool = option(False, short="v", help="Print more: versions, and how long each part took.")

    @property
    def draws_previews(self) -> bool:
        """Whether there are prompts to draw."""
        return self.validation_prompt is not None or self.validation_prompt_file is not None

    @property
    def level(self) -> Level:
        """Which lines are shown."""
        return Level.ALWAYS if self.quiet else Level.DETAIL if self.verbose else Level.NORMAL


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubOptions(Options):
    """Uploading the result to the Hugging Face Hub."""

    push_to_hub: bool = option(
        False,
        help="Upload the embedding, its card and images, small training images included, at the end.",
    )
    hub_model_id: str | None = option(
        None,
        metavar="ID",
        when_unset="the name of output_dir",
        help="Repository to upload to, owner/name or a name of your own; made if there is none.",
        only_with="push_to_hub",
    )
    hub_token: str | None = option(
        None,
        metavar="TOKEN",
        secret=True,
        when_unset="HF_TOKEN, or the token of `hf auth login`",
        help="Access token for the upload; never printed or stored.",
        only_with="push_to_hub",
    )
    hub_private_repo: bool = option(
        False, help="Make a new repository private, and refuse a public one.", only_with="push_to_hub"
    )
    hub_strategy: Literal["end", "every_save", "checkpoint", "all_checkpoints"] = option(
        "end",
        help="Upload at the end alone, or at every checkpoint too; checkpoint adds the latest one as "
        "last-checkpoint, all_checkpoints every one.",
        only_with="push_to_hub",
    )
    hub_concept_images: bool = option(
        True,
        help="Write concept_images, small copies of the first training images, and upload what shows them.",
    )
    hub_whole_pipeline: bool = option(
        False,
        help="Also upload the full pipeline (gigabytes).",
        only_with="push_to_hub",
    )
    hub_license: str | None = option(
        None,
        metavar="NAME",
        when_unset="none is named",
        help="License on the model card, in the Hub's spelling, such as cc-by-4.0.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostOptions(Options):
    """One run on several hosts, with one process on each."""

    multi_host: bool = option(
        False,
        help="Be one of several processes of a run, as the TPU slice, SLURM, Open MPI or Kubernetes says.",
    )
    coordinator_address: str | None = option(
        None,
        metavar="HOST:PORT",
        when_unset="as the environment says",
        help="Where the first process of the run can be reached.",
        needs=("multi_host", "num_processes", "process_id"),
    )
    num_processes: int | None = option(
        None,
        at_least=1,
        when_unset="as the environment says",
        help="Processes of the run.",
        needs=("coordinator_address",),
    )
    process_id: int | None = option(
        None,
        at_least=0,
        when_unset="as the environment says",
        help="Which of them this one is, from 0.",
        needs=("coordinator_address",),
        less_than="num_processes",
    )
    host_timeout: int = option(
        300,
        at_least=1,
        help="Seconds to wait for a host that has not joined, or that is late.",
    )
