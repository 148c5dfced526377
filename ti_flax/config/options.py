"""Every option of a run, in groups, with diffusers' names and defaults."""

import dataclasses
from typing import Literal

from ti_flax.config.values import checked, option, options_of

# Kinds of lr_scheduler that lr_warmup_steps does not belong to.
WITHOUT_WARMUP = ("constant", "piecewise_constant")

# What only some kinds of lr_scheduler have.
SCHEDULER_OPTIONS = {
    "lr_num_cycles": ("cosine_with_restarts",),
    "lr_power": ("polynomial",),
    "lr_step_rules": ("piecewise_constant",),
    "lr_scheduler_timescale": ("inverse_sqrt",),
    "lr_scheduler_min_lr_ratio": ("cosine_with_min_lr", "warmup_stable_decay", "rex"),
    "lr_decay_steps": ("warmup_stable_decay",),
}

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
SCHEDULE_FREE = ("schedule_free_adamw", "schedule_free_sgd")


class _Options:
    """Base of the groups: a value of the wrong type or range cannot be constructed."""

    def __post_init__(self):
        for each in options_of(type(self)):
            value = checked(each, getattr(self, each.name), each.name)
            object.__setattr__(self, each.name, value)  # frozen: the one place a value is normalised


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions(_Options):
    """The Stable Diffusion model to teach, and its precision."""

    pretrained_model_name_or_path: str = option(
        metavar="ID_OR_PATH",
        path=True,
        help="Stable Diffusion 1.x or 2.x model: a Hub repository id, a folder in diffusers' layout, or one "
        ".safetensors or .ckpt file in the original layout.",
    )
    revision: str | None = option(
        None, when_unset="the main branch", help="Branch, tag or commit of the Hub repository."
    )
    variant: str | None = option(
        None, when_unset="the plain files", help='Variant of the weight files, such as "fp16".'
    )
    tokenizer_name: str | None = option(
        None,
        metavar="ID_OR_FOLDER",
        path=True,
        when_unset="the model's own; openai/clip-vit-large-patch14 for a single file",
        help="Tokenizer to use in place of the model's.",
    )
    config_name: str | None = option(
        None,
        metavar="ID_OR_FOLDER",
        path=True,
        when_unset="worked out from the tensors",
        help="Model folder or Hub id whose config files and tokenizer describe a single-file model.",
    )
    pretrained_vae_model_name_or_path: str | None = option(
        None,
        metavar="ID_OR_PATH",
        path=True,
        when_unset="the model's own",
        help="VAE to use in place of the model's: a Hub repository id, a folder, or one file.",
    )
    clip_skip: int = option(
        0,
        at_least=0,
        help="Layers left out at the end of the text encoder, one less than the Web UI's and kohya's number.",
    )
    prediction_type: Literal["epsilon", "v_prediction"] | None = option(
        None,
        when_unset="what the model's scheduler says",
        help="What the UNet was trained to predict: noise or velocity.",
    )
    rescale_betas_zero_snr: bool | None = option(
        None,
        when_unset="what the model's scheduler says",
        help="Make the last timestep pure noise (zero terminal SNR), for models trained so.",
    )
    mixed_precision: Literal["no", "fp16", "bf16"] = option(
        "no", help='Precision of the frozen model: "no" is float32, bf16 halves memory; fp16 runs as bf16.'
    )

    attention: Literal["auto", "plain", "blockwise", "cudnn", "flash"] = option(
        "auto",
        metavar="NAME",
        help="How attention is computed; auto chooses by machine, precision and size",
    )

    @property
    def compute_dtype(self) -> Literal["float32", "bfloat16"]:
        """The dtype of frozen parameters and activations; learned rows are always float32."""
        return "float32" if self.mixed_precision == "no" else "bfloat16"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConceptOptions(_Options):
    """The new word, and what it starts from."""

    placeholder_token: str = option(
        metavar="TOKEN", help='The new word, unknown to the tokenizer, such as "<cat-toy>".'
    )
    initializer_token: str | None = option(
        None,
        metavar="TEXT",
        when_unset="required, unless init_embeds or initializer_mode random says what to start from",
        help='Known word or words that the new word starts as, such as "toy" or "blue bmw": '
        "each of k tokens starts an equal share of the vectors, in order.",
    )
    initializer_mode: Literal["spread", "mean", "random"] = option(
        "spread",
        help="Start every vector at its share of the words (spread), at their mean, or at a normal draw with "
        "the vocabulary's mean and deviation in each dimension (random).",
    )
    init_embeds: str | None = option(
        None,
        metavar="FILE",
        path=True,
        when_unset="the words of initializer_token",
        help="Embedding file to start from, of any trainer's format, in place of initializer_token.",
    )
    num_vectors: int | None = option(
        1,
        at_least=1,
        when_unset="as many as initializer_token or init_embeds has",
        help="Embedding vectors the new word consists of; null takes as many as the start has.",
    )
    extra_embeds: tuple[str, ...] | None = option(
        None,
        metavar="[TOKEN=]FILE",
        path=True,
        when_unset="none",
        help="Existing embedding that prompts may name, and that stays as it is; "
        "its token is the file's own unless one is given",
    )
    learnable_property: Literal["object", "style"] = option(
        "object", help="What the pictures have in common; chooses the built-in prompt templates."
    )

    @property
    def start(self) -> str:
        """What the vectors start as, in a few words."""
        if self.initializer_mode == "random":
            return "random vectors"
        source = repr(self.initializer_token) if self.init_embeds is None else self.init_embeds
        return f"the mean of {source}" if self.initializer_mode == "mean" else source


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageOptions(_Options):
    """The pictures to learn from, their shapes and their masks."""

    train_data_dir: tuple[str, ...] = option(
        metavar="SOURCE",
        path=True,
        help="Where the pictures are: a folder with its sub-folders, a picture, a text file with a path or "
        "link a line, a link, a dataset on disk, or a Hub dataset id such as diffusers/cat_toy_example",
    )
    image_column: str | None = option(
        None,
        metavar="NAME",
        when_unset="the first column of pictures",
        help="Column of a dataset or metadata file that holds the pictures.",
    )
    caption_column: str | None = option(
        None,
        metavar="NAME",
        when_unset="text, caption or txt, if there is one",
        help="Column of a dataset or metadata file that holds the captions.",
    )
    dataset_config_name: str | None = option(
        None, metavar="NAME", when_unset="the only one", help="Configuration of a dataset that has several."
    )
    dataset_split: str | None = option(
        None, metavar="NAME", when_unset="train, else the first", help="Split of a dataset to learn from."
    )
    resolution: int = option(
        512, above=0, multiple_of=8, help="Side of the square training pictures, in pixels, a multiple of 8."
    )
    center_crop: bool = option(
        False, help="Crop to the central square before resizing, instead of squeezing the whole picture."
    )
    enable_bucket: bool = option(
        False, help="Train in a few shapes near the pictures' own, instead of squares; nothing is squeezed."
    )
    bucket_reso_steps: int = option(
        64,
        above=0,
        multiple_of=8,
        help="Sides of shapes other than the square are multiples of it, in pixels.",
    )
    max_buckets: int = option(
        4,
        at_least=1,
        help="Shapes of enable_bucket at most; each is compiled, and those that crop least win.",
    )
    alpha_mask: bool = option(
        False, help="Count each part of a picture in the loss as far as it is opaque, by its alpha channel."
    )
    mask_dir: str | None = option(
        None,
        metavar="FOLDER",
        path=True,
        when_unset="everything counts",
        help="Folder of masks, white where a picture counts in the loss: NAME.png or NAME-masklabel.png.",
    )
    unmasked_weight: float = option(
        0.0, at_least=0, at_most=1, help="What the black or transparent part of a mask still counts."
    )
    interpolation: Literal["nearest", "linear", "bilinear", "bicubic", "lanczos"] = option(
        "bicubic", metavar="NAME", help="Filter used to resize the pictures"
    )
    flip_p: float = option(0.5, at_least=0, at_most=1, help="Probability that a sample is mirrored.")
    repeats: tuple[int, ...] = option(
        (100,),
        at_least=1,
        help="How often an epoch shows every picture: one number, or one for each train_data_dir",
    )
    latents_cache_dir: str | None = option(
        None,
        metavar="FOLDER",
        path=True,
        when_unset="the user's cache folder",
        help="Where encoded pictures are kept for the next run.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptOptions(_Options):
    """Templates and captions, and what is drawn about them."""

    templates: Literal["object", "style", "caption"] | None = option(
        None,
        when_unset="the set of learnable_property",
        help="Built-in prompt templates; caption is the caption and nothing else, so it must name the word.",
    )
    template_file: str | None = option(
        None,
        metavar="FILE",
        path=True,
        when_unset="the built-in templates",
        help="Text file of prompt templates, one a line: [name] or {} is the word, [filewords] the caption.",
    )
    captions: Literal["none", "files", "filename", "metadata", "caption_file"] = option(
        "none",
        metavar="NAME",
        help="Where captions come from: files beside the pictures, their names, their dataset, one file",
    )
    caption_extension: tuple[str, ...] | None = option(
        None,
        metavar=".EXT",
        when_unset=".txt, .caption",
        help="Suffix of the text files beside the pictures, for captions files",
    )
    caption_file: str | None = option(
        None,
        metavar="FILE",
        path=True,
        when_unset="no such file",
        help="JSON Lines, table or lines `name|caption` with the captions of all pictures.",
    )
    filename_pattern: str | None = option(
        None,
        metavar="REGEX",
        when_unset="all but a number in front, with _ as blanks",
        help="What of a file name is the caption: group `words`, else the first group, else each match.",
    )
    caption_prefix: str | None = option(
        None, when_unset="nothing", help="Text put before every caption, tags and commas included."
    )
    caption_suffix: str | None = option(None, when_unset="nothing", help="Text put behind every caption.")
    caption_separator: str = option(",", help="What the tags of a caption are apart by.")
    shuffle_caption: bool = option(
        False, help="Put the tags of a caption into another order for every sample."
    )
    keep_tokens: int = option(
        0, at_least=0, help="Tags at the beginning that shuffling and dropping leave alone."
    )
    caption_tag_dropout_rate: float = option(
        0.0, at_least=0, at_most=1, help="Chance of every tag, but one that names the word, to be left out."
    )
    caption_dropout_rate: float = option(
        0.0, at_least=0, at_most=1, help="Share of samples whose caption is left out; the word stays."
    )
    enable_wildcard: bool = option(
        False, help="Take one of a caption's lines, and one of each {a|b} in it, for every sample."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions(_Options):
    """How much is trained, and in what portions."""

    train_batch_size: int = option(16, at_least=1, help="Samples per device and forward pass.")
    gradient_accumulation_steps: int = option(
        1, at_least=1, help="Forward passes whose gradients are averaged into one training step."
    )
    num_train_epochs: int = option(
        100, at_least=1, help="Epochs to train; counts only when max_train_steps is null."
    )
    max_train_steps: int | None = option(
        5000, at_least=1, when_unset="num_train_epochs epochs", help="Training steps of the run."
    )
    seed: int | None = option(
        None,
        at_least=0,
        at_most=2**32 - 1,
        when_unset="drawn, printed and recorded",
        help="Seed of all random draws; the same seed repeats a run.",
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerOptions(_Options):
    """What moves the vectors, and how fast."""

    optimizer: Literal[
        "adamw", "adam", "adabelief", "adadelta", "adafactor", "adagrad", "adamax", "adamaxw", "adan",
        "ademamix", "adopt", "acprop", "amsgrad", "cocob", "dadapt_adamw", "dog", "dowg", "fromage", "lamb",
        "lars", "lion", "madgrad", "muon", "nadam", "nadamw", "novograd", "optimistic_adam", "prodigy",
        "radam", "rmsprop", "schedule_free_adamw", "schedule_free_sgd", "sgd", "sign_sgd", "signum",
        "simplified_ademamix", "yogi",
    ] = option("adamw", metavar="NAME", help="Optimizer of optax that moves the vectors")  # fmt: skip
    optimizer_args: tuple[str, ...] | None = option(
        None,
        metavar="NAME=VALUE",
        when_unset="optax's defaults",
        help="Option of the optimizer under optax's name, such as weight_decay=0.01 or betas=0.9,0.99",
    )
    learning_rate: float | str = option(
        1e-4,
        at_least=0,
        help='Learning rate after any warmup, or rates and their last steps, "0.05:50, 0.01:100, 0.005".',
    )
    scale_lr: bool = option(
        False, help="Multiply learning_rate by devices x gradient_accumulation_steps x train_batch_size."
    )
    lr_scheduler: Literal[
        "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial",
        "piecewise_constant", "inverse_sqrt", "cosine_with_min_lr", "warmup_stable_decay", "rex",
    ] = option("constant", metavar="NAME", help="How the learning rate changes over the run")  # fmt: skip
    lr_warmup_steps: int = option(
        500,
        at_least=0,
        help="Training steps over which the rate rises from 0 (not with constant or piecewise_constant).",
    )
    lr_num_cycles: int = option(1, at_least=1, help="Restarts of cosine_with_restarts.")
    lr_power: float = option(1.0, above=0, help="Power of polynomial.")
    lr_step_rules: str | None = option(
        None,
        metavar="RULES",
        when_unset="required with piecewise_constant",
        help='Factors of piecewise_constant and the steps they last to, such as "1:10,0.1:20,0.005".',
    )
    lr_scheduler_timescale: int | None = option(
        None,
        at_least=1,
        when_unset="lr_warmup_steps, or 10000 without warmup",
        help="Steps after which inverse_sqrt begins to fall, like 1 / sqrt(step / timescale).",
    )
    lr_scheduler_min_lr_ratio: float = option(
        0.0,
        at_least=0,
        at_most=1,
        help="Share of learning_rate that cosine_with_min_lr, warmup_stable_decay and rex end at.",
    )
    lr_decay_steps: int | None = option(
        None,
        at_least=1,
        when_unset="a tenth of the run",
        help="Training steps at the end over which warmup_stable_decay falls.",
    )
    adam_beta1: float = option(0.9, at_least=0, below=1, help="Decay of Adam's first moment.")
    adam_beta2: float = option(0.999, at_least=0, below=1, help="Decay of Adam's second moment.")
    adam_weight_decay: float = option(1e-2, at_least=0, help="Weight decay of the learned vectors.")
    adam_epsilon: float = option(1e-8, above=0, help="Adam's epsilon.")
    max_grad_norm: float | None = option(
        None, above=0, when_unset="no clipping", help="Norm that gradients are clipped to."
    )
    grad_clip_value: float | None = option(
        None,
        above=0,
        when_unset="no clipping",
        help="Size that each number of the gradient is clipped to (the Web UI's gradient clipping by value).",
    )
    use_ema: bool = option(
        False, help="Average the vectors over the steps; files and previews hold the average."
    )
    ema_decay: float = option(
        0.9999,
        at_least=0,
        below=1,
        help="Share of the average that a step keeps, at most (1 + steps) / (10 + steps).",
    )
    embedding_norm: Literal["none", "keep", "limit"] = option(
        "none",
        help="Rescale each vector after every step to the vocabulary's median norm (keep), "
        "or only when it is longer than the vocabulary's longest (limit).",
    )
    pull_to_start: float = option(
        0.0,
        at_least=0,
        help="Weight p of p / 2 x the squared distance of the vectors from their start, added to the loss.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossOptions(_Options):
    """What the error of a sample counts, with which noise and timestep."""

    loss_type: Literal["l2", "l1", "huber", "smooth_l1"] = option(
        "l2", help="Measure of the error; huber and smooth_l1 are quadratic near zero and linear far from it."
    )
    huber_c: float | None = option(
        None,
        above=0,
        at_most=1,
        when_unset="0.1",
        help="Error at which huber and smooth_l1 turn from quadratic to linear, at the noisiest timestep.",
    )
    huber_schedule: Literal["constant", "exponential", "snr"] | None = option(
        None, when_unset="snr", help="How huber_c grows towards the clean timesteps."
    )
    snr_gamma: float | None = option(
        None,
        above=0,
        when_unset="no weighting",
        help="Min-SNR weighting of timesteps: errors count as if no signal-to-noise ratio were above this; 5 "
        "is usual.",
    )
    debiased_estimation_loss: bool = option(
        False, help="Weigh timesteps by the inverse root of their signal-to-noise ratio."
    )
    scale_v_pred_loss_like_noise_pred: bool = option(
        False, help="Weigh the timesteps of a v-prediction model as those of an epsilon model."
    )
    v_pred_like_loss: float | None = option(
        None,
        above=0,
        when_unset="none is added",
        help="How much of a v-prediction loss is added to that of an epsilon model.",
    )
    noise_offset: float = option(
        0.0, at_least=0, help="Scale of noise that is the same all over a channel; learns dark and bright."
    )
    adaptive_noise_scale: float | None = option(
        None,
        when_unset="none",
        help="Times the mean latent of each channel, added to noise_offset; may be negative.",
    )
    multires_noise_iterations: int | None = option(
        None, at_least=1, at_most=10, when_unset="none", help="Layers of coarser and coarser noise added."
    )
    multires_noise_discount: float | None = option(
        None,
        above=0,
        at_most=1,
        when_unset="0.3",
        help="Strength of each layer of multires_noise_iterations relative to the one before.",
    )
    input_perturbation: float = option(
        0.0, at_least=0, help="Scale of extra noise that the model is shown but not asked for; 0.1 is usual."
    )
    min_timestep: int | None = option(
        None, at_least=0, when_unset="0", help="First timestep that is trained; 0 is the cleanest."
    )
    max_timestep: int | None = option(
        None, at_least=1, when_unset="all", help="Timestep before which training ends, such as 1000."
    )
    timestep_sampling: Literal["uniform", "stratified", "antithetic"] = option(
        "uniform",
        help="Timesteps of an update: drawn each by itself, one from each of as many equal parts as samples, "
        "or mirrored in pairs; every timestep is as likely with each.",
    )
    class_data_dir: str | None = option(
        None,
        metavar="FOLDER_OR_ID",
        path=True,
        when_unset="no prior preservation",
        help="Pictures of the word's class; each sample has one beside it, to keep the word in its class.",
    )
    class_prompt: str | None = option(
        None,
        metavar="PROMPT",
        when_unset="the prompts of the training pictures",
        help='Prompt of the class pictures, with the new word in it, such as "a photo of a <cat-toy>".',
    )
    prior_loss_weight: float | None = option(
        None, at_least=0, when_unset="1", help="What the error of the class pictures counts."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputOptions(_Options):
    """What is written where, and how a stopped run goes on."""

    output_dir: str = option(
        "text-inversion-model", metavar="FOLDER", path=True, help="Folder for everything the run writes."
    )
    save_steps: int = option(500, at_least=1, help="Steps between two learned_embeds-steps-N files.")
    only_save_embeds: bool = option(
        False, help="Write only learned_embeds files at the end, not the whole pipeline (gigabytes)."
    )
    overwrite_output_dir: bool = option(
        False, help="Start again in a folder that already holds a finished run."
    )
    checkpointing_steps: int = option(500, at_least=1, help="Steps between two checkpoints to resume from.")
    checkpoints_total_limit: int | None = option(
        None, at_least=1, when_unset="all are kept", help="Checkpoints kept; older ones are deleted."
    )
    resume_from_checkpoint: str | None = option(
        None,
        metavar="NAME",
        path=True,
        when_unset="a new run",
        help='Checkpoint to continue from: "latest", or a name or path such as checkpoint-500.',
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchingOptions(_Options):
    """Previews and curves while it trains."""

    validation_prompt: tuple[str, ...] | None = option(
        None,
        metavar="PROMPT",
        when_unset="no previews",
        help='Prompt of the preview pictures, such as "a <cat-toy> on a beach"',
    )
    num_validation_images: int = option(4, at_least=1, help="Pictures of each prompt.")
    validation_steps: int = option(100, at_least=1, help="Steps between two previews.")
    validation_epochs: int | None = option(
        None,
        at_least=1,
        when_unset="validation_steps counts",
        help="Old spelling of validation_steps: previews every N x pictures x repeats steps.",
    )
    profile: str | None = option(
        None,
        metavar="FOLDER",
        path=True,
        when_unset="no trace",
        help="Write a trace of some steps, for TensorBoard and ui.perfetto.dev.",
    )
    report_to: Literal["none", "tensorboard"] = option(
        "tensorboard",
        remedy="metrics.csv is written in any case.",
        help="Where curves go besides metrics.csv; tensorboard needs the package tensorboardX.",
    )
    logging_dir: str = option("logs", metavar="FOLDER", path=True, help="TensorBoard folder in output_dir.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubOptions(_Options):
    """Uploading the result to the Hugging Face Hub."""

    push_to_hub: bool = option(False, help="Upload the result when training ends.")
    hub_model_id: str | None = option(
        None, metavar="ID", when_unset="the name of output_dir", help="Repository to upload to."
    )
    hub_token: str | None = option(
        None,
        metavar="TOKEN",
        secret=True,
        when_unset="the token of `hf auth login`",
        help="Access token for the upload; never printed or stored.",
    )
    hub_private_repo: bool = option(False, help="Make a new repository private.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostOptions(_Options):
    """One run on several hosts, each with a process of its own."""

    multi_host: bool = option(
        False,
        help="Be one of several processes, as the TPU slice, SLURM, Open MPI or Kubernetes says.",
    )
    coordinator_address: str | None = option(
        None,
        metavar="HOST:PORT",
        when_unset="as the environment says",
        help="Where the first process of the run can be reached.",
    )
    num_processes: int | None = option(
        None, at_least=1, when_unset="as the environment says", help="Processes of the run."
    )
    process_id: int | None = option(
        None, at_least=0, when_unset="as the environment says", help="Which of them this one is, from 0."
    )
