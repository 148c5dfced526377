"""How the rows learn: length, optimizer and loss."""

import dataclasses
from typing import Literal

from ti_flax.config.options.group import Options
from ti_flax.config.values import option

# Far beyond what pays off; the places of a global batch are counted in int32.
MOST_SAMPLES = 8192

# Kinds of lr_scheduler that lr_warmup_steps does not belong to.
WITHOUT_WARMUP = ("constant", "piecewise_constant")

# Optimizers with Adam's moments, for which the adam_* options mean what they mean for AdamW.
_WITH_DECAY = ("adamw", "nadamw", "adamaxw")

_WITH_MOMENTS = (*_WITH_DECAY, "adam", "nadam", "adamax", "radam", "amsgrad")

ADAM_OPTIONS = {
    "adam_beta1": _WITH_MOMENTS,
    "adam_beta2": _WITH_MOMENTS,
    "adam_epsilon": _WITH_MOMENTS,
    "adam_weight_decay": _WITH_DECAY,
}

# Optimizers that estimate the size of a step themselves; the learning rate is a factor on it.
FINDS_ITS_RATE = ("prodigy", "dadapt_adamw", "dog", "dowg", "cocob")

# The optimizer that learns directions alone.
DIRECTIONAL = "directional"

# The most steps of a run that ends itself.
MOST_STEPS_UNTIL_DONE = 5000

SCHEDULE_FREE = ("schedule_free_adamw", "schedule_free_sgd")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions(Options):
    """How long to train, and in what batches."""

    preset: Literal["quick", "balanced", "careful"] | None = option(
        None,
        when_unset="each option its own default",
        brief="optimizer, rate and steps that go together",
        help="Optimizer, learning rate, steps and so on that go together; an option that is "
        "written beside it wins, and a preset on the command line wins over the file's options.",
    )
    train_batch_size: int = option(
        16, at_least=1, at_most=MOST_SAMPLES, help="Samples per device and forward pass.", changes_bits=True
    )
    gradient_accumulation_steps: int = option(
        1,
        at_least=1,
        at_most=MOST_SAMPLES,
        help="Forward passes whose gradients one training step averages.",
        changes_bits=True,
    )
    num_train_epochs: int = option(
        100,
        at_least=1,
        help="Epochs to train; counts only when max_train_steps is null.",
        per_concept=True,
    )
    max_train_steps: int | Literal["auto"] | None = option(
        5000,
        at_least=1,
        when_unset="num_train_epochs epochs",
        brief="updates to make; auto ends when nothing improves",
        help="Training steps of the run; auto ends it when it no longer improves or the word drowns the rest "
        "of prompts, after 5000 at the latest, and makes the best vectors the result.",
        changes_bits=True,
        value_needs={"auto": "lr_scheduler constant|constant_with_warmup"},
        per_concept=True,
    )
    seed: int | None = option(
        None,
        at_least=0,
        at_most=2**32 - 1,
        when_unset="drawn, printed and recorded",
        help="Seed of all random draws; the same seed repeats a run.",
        changes_bits=True,
        per_concept=True,
    )
    on_nonfinite: Literal["stop", "skip"] = option(
        "stop",
        help="When a loss, gradient or vector is no longer finite: stop the run, or skip that update.",
        changes_bits=True,
    )
    max_nonfinite_steps: int | None = option(
        None,
        at_least=1,
        when_unset="10",
        help="Updates in a row that the run skips before it stops.",
        needs=("on_nonfinite skip",),
    )
    deterministic: bool = option(
        False,
        help="Make runs on a GPU repeat bit for bit, as they do on TPU and CPU anyway: kernels with a fixed "
        "order of sums, chosen without timing them, so steps are slower.",
        changes_bits=True,
    )
    gradient_checkpointing: bool = option(
        False, help="Recompute activations in the backward pass: less memory, slower steps."
    )
    steps_per_call: int | None = option(
        None,
        at_least=1,
        when_unset="chosen by timing",
        help="Training steps one call of the device program runs; results do not depend on it.",
    )

    @property
    def until_done(self) -> bool:
        """Whether the run ends itself."""
        return self.max_train_steps == "auto"

    @property
    def total_steps(self) -> int:
        """Steps of the run, the most that it may make if it ends itself; 0 while only epochs are known."""
        return MOST_STEPS_UNTIL_DONE if self.max_train_steps == "auto" else self.max_train_steps or 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerOptions(Options):
    """The optimizer and its learning rate."""

    optimizer: Literal[
        "adamw", "adam", "adabelief", "adadelta", "adafactor", "adagrad", "adamax", "adamaxw", "adan",
        "ademamix", "adopt", "acprop", "amsgrad", "cocob", "dadapt_adamw", "directional", "dog", "dowg",
        "fromage", "lamb", "lars", "lion", "madgrad", "muon", "nadam", "nadamw", "novograd",
        "optimistic_adam", "prodigy", "radam", "rmsprop", "schedule_free_adamw", "schedule_free_sgd", "sgd",
        "sign_sgd", "signum", "simplified_ademamix", "yogi",
    ] = option(
        "adamw",
        metavar="NAME",
        help="Optimizer of optax that moves the vectors, or directional, which keeps their norm and learns "
        "their direction alone",
        changes_bits=True,
        value_needs=dict.fromkeys(SCHEDULE_FREE, "lr_scheduler constant|constant_with_warmup"),
    )  # fmt: skip
    optimizer_args: tuple[str, ...] | None = option(
        None,
        metavar="NAME=VALUE",
        when_unset="optax's defaults",
        help="Option of the optimizer under optax's name, such as weight_decay=0.01 or betas=0.9,0.99",
        changes_bits=True,
    )
    learning_rate: float | str = option(
        1e-4,
        at_least=0,
        brief="how fast to learn",
        help='Learning rate after any warmup, or rates and their last steps, "0.05:50, 0.01:100, 0.005".',
        changes_bits=True,
        per_concept=True,
    )
    scale_lr: bool = option(
        False,
        help="Multiply learning_rate by devices x gradient_accumulation_steps x train_batch_size.",
        changes_bits=True,
    )
    lr_scheduler: Literal[
        "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial",
        "piecewise_constant", "inverse_sqrt", "cosine_with_min_lr", "warmup_stable_decay", "rex",
    ] = option(
        "constant",
        metavar="NAME",
        help="How the learning rate changes over the run",
        changes_bits=True,
        value_needs={"piecewise_constant": "lr_step_rules"},
        per_concept=True,
    )  # fmt: skip
    lr_warmup_steps: int = option(
        500,
        at_least=0,
        help="Training steps over which the rate rises from 0 (not with constant or piecewise_constant).",
        changes_bits=True,
        per_concept=True,
    )
    lr_num_cycles: int = option(
        1,
        at_least=1,
        help="Times the cosine starts again.",
        changes_bits=True,
        only_with="lr_scheduler cosine_with_restarts",
        per_concept=True,
    )
    lr_power: float = option(
        1.0,
        above=0,
        help="Power of the polynomial.",
        changes_bits=True,
        only_with="lr_scheduler polynomial",
        per_concept=True,
    )
    lr_step_rules: str | None = option(
        None,
        metavar="RULES",
        when_unset="required with piecewise_constant",
        help='Factors of the learning rate and the steps they last to, such as "1:10,0.1:20,0.005".',
        changes_bits=True,
        needs=("lr_scheduler piecewise_constant",),
        per_concept=True,
    )
    lr_scheduler_timescale: int | None = option(
        None,
        at_least=1,
        when_unset="lr_warmup_steps, or 10000 without warmup",
        help="Steps after which the rate begins to fall, like 1 / sqrt(step / timescale).",
        changes_bits=True,
        only_with="lr_scheduler inverse_sqrt",
        per_concept=True,
    )
    lr_scheduler_min_lr_ratio: float = option(
        0.0,
        at_least=0,
        at_most=1,
        help="Share of learning_rate that the rate ends at.",
        changes_bits=True,
        only_with="lr_scheduler cosine_with_min_lr|warmup_stable_decay|rex",
        per_concept=True,
    )
    lr_decay_steps: int | None = option(
        None,
        at_least=1,
        when_unset="a tenth of the run",
        help="Training steps at the end over which the rate falls.",
        changes_bits=True,
        only_with="lr_scheduler warmup_stable_decay",
        per_concept=True,
    )
    adam_beta1: float = option(
        0.9,
        at_least=0,
        below=1,
        help="Decay of Adam's first moment.",
        changes_bits=True,
        needs=(f"optimizer {'|'.join(ADAM_OPTIONS['adam_beta1'])}",),
    )
    adam_beta2: float = option(
        0.999,
        at_least=0,
        below=1,
        help="Decay of Adam's second moment.",
        changes_bits=True,
        needs=(f"optimizer {'|'.join(ADAM_OPTIONS['adam_beta2'])}",),
    )
    adam_weight_decay: float = option(
        1e-2,
        at_least=0,
        help="Weight decay of the learned vectors.",
        changes_bits=True,
        needs=(f"optimizer {'|'.join(ADAM_OPTIONS['adam_weight_decay'])}",),
    )
    adam_epsilon: float = option(
        1e-8,
        above=0,
        help="Adam's epsilon.",
        changes_bits=True,
        needs=(f"optimizer {'|'.join(ADAM_OPTIONS['adam_epsilon'])}",),
    )
    directional_kappa: float = option(
        1e-4,
        at_least=0,
        help="Concentration of the von Mises-Fisher prior that keeps directions near their start; 0 is none.",
        changes_bits=True,
        needs=(f"optimizer {DIRECTIONAL}",),
        per_concept=True,
    )
    max_grad_norm: float | None = option(
        None,
        above=0,
        when_unset="no clipping",
        help="Norm that gradients are clipped to.",
        changes_bits=True,
        excludes=(f"optimizer {DIRECTIONAL}",),
    )
    grad_clip_value: float | None = option(
        None,
        above=0,
        when_unset="no clipping",
        help="Size that each number of the gradient is clipped to (the Web UI's gradient clipping by value).",
        changes_bits=True,
        excludes=("max_grad_norm", f"optimizer {DIRECTIONAL}"),
    )
    use_ema: bool = option(
        False,
        help="Average the vectors over the steps; files and previews hold the average.",
        changes_bits=True,
        excludes=(f"optimizer {'|'.join(SCHEDULE_FREE)}",),
    )
    ema_decay: float = option(
        0.9999,
        at_least=0,
        below=1,
        help="Share of the average that a step keeps, at most (1 + steps) / (10 + steps).",
        changes_bits=True,
        only_with="use_ema",
    )
    embedding_norm: Literal["none", "keep", "limit"] = option(
        "none",
        help="Rescale each vector after every step to the vocabulary's median norm (keep), "
        "or only when it is longer than the vocabulary's longest (limit).",
        changes_bits=True,
        excludes=(f"optimizer {'|'.join((*SCHEDULE_FREE, DIRECTIONAL))}",),
    )
    pull_to_start: float = option(
        0.0,
        at_least=0,
        help="Weight p of p / 2 x the squared distance of the vectors from their start, added to the loss.",
        changes_bits=True,
        excludes=(f"optimizer {DIRECTIONAL}",),
        per_concept=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossOptions(Options):
    """How the error is weighed, and which noise and timesteps are drawn."""

    loss_type: Literal["l2", "l1", "huber", "smooth_l1"] = option(
        "l2",
        help="Measure of the error; huber and smooth_l1 are quadratic near zero and linear far from it.",
        changes_bits=True,
    )
    huber_c: float | None = option(
        None,
        above=0,
        at_most=1,
        when_unset="0.1",
        help="Error at which the loss turns from quadratic to linear, at the noisiest timestep.",
        changes_bits=True,
        needs=("loss_type huber|smooth_l1",),
    )
    huber_schedule: Literal["constant", "exponential", "snr"] | None = option(
        None,
        when_unset="snr",
        help="How huber_c grows towards the clean timesteps.",
        changes_bits=True,
        needs=("loss_type huber|smooth_l1",),
    )
    snr_gamma: float | None = option(
        None,
        above=0,
        when_unset="no weighting",
        help="Min-SNR weighting of timesteps: errors count as if no signal-to-noise ratio were above this; 5 "
        "is usual.",
        changes_bits=True,
        excludes=("debiased_estimation_loss",),
    )
    debiased_estimation_loss: bool = option(
        False,
        help="Weigh timesteps by the inverse root of their signal-to-noise ratio.",
        changes_bits=True,
    )
    scale_v_pred_loss_like_noise_pred: bool = option(
        False,
        help="Weigh the timesteps of a v-prediction model as those of an epsilon model.",
        changes_bits=True,
    )
    v_pred_like_loss: float | None = option(
        None,
        above=0,
        when_unset="none is added",
        help="How much of a v-prediction loss is added to that of an epsilon model.",
        changes_bits=True,
    )
    noise_offset: float = option(
        0.0,
        at_least=0,
        help="Scale of noise that is constant over a channel; helps to learn dark and bright images.",
        changes_bits=True,
    )
    adaptive_noise_scale: float | None = option(
        None,
        when_unset="none",
        help="Factor of each channel's mean latent, added to noise_offset; may be negative.",
        changes_bits=True,
        needs=("noise_offset",),
    )
    multires_noise_iterations: int | None = option(
        None,
        at_least=1,
        at_most=10,
        when_unset="none",
        help="Layers of ever coarser noise to add.",
        changes_bits=True,
    )
    multires_noise_discount: float | None = option(
        None,
        above=0,
        at_most=1,
        when_unset="0.3",
        help="Strength of each layer relative to the one before.",
        changes_bits=True,
        needs=("multires_noise_iterations",),
    )
    input_perturbation: float = option(
        0.0,
        at_least=0,
        help="Scale of extra noise in the model's input that it is not to predict; 0.1 is usual.",
        changes_bits=True,
    )
    min_timestep: int | None = option(
        None,
        at_least=0,
        when_unset="0",
        help="First timestep to train; 0 is the cleanest.",
        changes_bits=True,
        less_than="max_timestep",
    )
    max_timestep: int | None = option(
        None,
        at_least=1,
        when_unset="all",
        help="First timestep not to train, such as 1000.",
        changes_bits=True,
    )
    timestep_sampling: Literal["uniform", "stratified", "antithetic"] = option(
        "uniform",
        help="Timesteps of an update: drawn each by itself, one from each of as many equal parts as samples, "
        "or mirrored in pairs; every timestep is as likely with each.",
        changes_bits=True,
    )
    class_data_dir: str | None = option(
        None,
        metavar="FOLDER_OR_ID",
        path="input",
        when_unset="no prior preservation",
        help="Images of the word's class: each sample goes with one of them, to keep the word in its class.",
        per_concept=True,
    )
    class_prompt: str | None = option(
        None,
        metavar="PROMPT",
        when_unset="the prompts of the training images",
        help='Prompt of the class images, with the new word in it, such as "a photo of a <cat-toy>".',
        needs=("class_data_dir",),
        per_concept=True,
    )
    prior_loss_weight: float | None = option(
        None,
        at_least=0,
        when_unset="1",
        help="Weight of the error of the class images.",
        changes_bits=True,
        needs=("class_data_dir",),
        per_concept=True,
    )
