"""RunConfig: the groups of options in one tree, to and from flat names."""

import dataclasses
import re
import typing

from ti_flax.config.contradictions import refuse_contradictory_rows
from ti_flax.config.options import (
    WITHOUT_WARMUP,
    ConceptOptions,
    HostOptions,
    HubOptions,
    ImageOptions,
    LossOptions,
    ModelOptions,
    OptimizerOptions,
    OutputOptions,
    PromptOptions,
    TrainingOptions,
    WatchingOptions,
)
from ti_flax.config.values import Option, checked, nearest, options_of
from ti_flax.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything a run is told; immutable, checked when it is made.

    Raises:
      ConfigError: a value has the wrong type or range, or two values contradict each other.
    """

    model: ModelOptions
    concept: ConceptOptions
    images: ImageOptions
    prompts: PromptOptions = PromptOptions()
    training: TrainingOptions = TrainingOptions()
    optimizer: OptimizerOptions = OptimizerOptions()
    loss: LossOptions = LossOptions()
    output: OutputOptions = OutputOptions()
    watching: WatchingOptions = WatchingOptions()
    hub: HubOptions = HubOptions()
    hosts: HostOptions = HostOptions()

    def __post_init__(self):
        _refuse_contradictions(self)

    @classmethod
    def from_dict(cls, values: typing.Mapping[str, object], where: str = "configuration") -> "RunConfig":
        """Make a configuration from flat option names and typed values, as `to_dict` returns them.

        Args:
          values: option name to value; options left out take their defaults.
          where: the file the values come from, for messages.
        """
        for name in values:
            if name not in OPTIONS:
                close = nearest(str(name), OPTIONS)
                raise ConfigError(
                    f"{where}: unknown key {name!r}", remedy=f"Did you mean {close}?" if close else ""
                )
        missing = missing_options(values)
        if missing:
            raise ConfigError(f"{where}: missing: {', '.join(missing)}")
        for name, value in values.items():
            checked(OPTIONS[name], value, f"{where}: {name}")
        members = {
            group: kind(**{each.name: values[each.name] for each in options_of(kind) if each.name in values})
            for group, kind in GROUPS.items()
        }
        return cls(**members)

    def to_dict(self) -> dict[str, object]:
        """Return option name to plain value, in option order, without secrets."""
        return {name: value for name, value in self._flat().items() if not OPTIONS[name].rule.secret}

    def replace(self, **changes: object) -> "RunConfig":
        """Return a copy with options, named flat, changed; secrets are carried along."""
        return RunConfig.from_dict({**self._flat(), **changes})

    def to_yaml(self) -> str:
        """Return a configuration file that makes this configuration again, secrets apart."""
        import yaml

        values = self.to_dict()
        sections = []
        for group, kind in GROUPS.items():
            members = {each.name: values[each.name] for each in options_of(kind) if each.name in values}
            body = yaml.safe_dump(members, sort_keys=False, allow_unicode=True, width=10**6)
            sections.append(f"# {group}\n{body}")
        return "\n".join(sections)

    def describe(self) -> str:
        """Return a few lines that say what the run is about, for its header."""
        concept, training = self.concept, self.training
        vectors = "1 vector" if concept.num_vectors == 1 else f"{concept.num_vectors} vectors"
        vectors = "as many vectors as that has" if concept.num_vectors is None else vectors
        length = f"{training.max_train_steps} steps"
        if training.max_train_steps is None:
            length = f"{training.num_train_epochs} epochs"
        batch = (
            f"{training.train_batch_size} x {training.gradient_accumulation_steps} accumulated, per device"
        )
        return (
            f"concept   {concept.placeholder_token} ({concept.learnable_property}, {vectors}), "
            f"starting as {concept.start}\n"
            f"images    {', '.join(self.images.train_data_dir)} "
            f"at {self.images.resolution} x {self.images.resolution}\n"
            f"model     {self.model.pretrained_model_name_or_path} in {self.model.compute_dtype}\n"
            f"training  {length}, batch {batch}\n"
            f"optimizer {self.optimizer.optimizer}, learning rate {self.optimizer.learning_rate}, "
            f"{self.optimizer.lr_scheduler}\n"
            f"output    {self.output.output_dir}"
        )

    def validation_interval(self, epoch_samples: int) -> int:
        """Return the steps between two previews of a run whose epoch shows so many pictures.

        `validation_epochs` counts steps as diffusers' script does: an epoch is pictures x repeats.
        """
        if self.watching.validation_epochs is None:
            return self.watching.validation_steps
        return self.watching.validation_epochs * epoch_samples

    def _flat(self) -> dict[str, typing.Any]:
        return {
            each.name: _plain(value) if isinstance(value, tuple) else value
            for group, kind in GROUPS.items()
            for each in options_of(kind)
            for value in [getattr(getattr(self, group), each.name)]
        }


def _plain(values: tuple) -> object:
    """One value of an option that may have several is written as that value."""
    return values[0] if len(values) == 1 else list(values)


GROUPS: dict[str, typing.Any] = {field.name: field.type for field in dataclasses.fields(RunConfig)}
OPTIONS: dict[str, Option] = {each.name: each for kind in GROUPS.values() for each in options_of(kind)}


def missing_options(values: typing.Mapping[str, object]) -> list[str]:
    """Return the names of options that have to be given and are not, in order."""
    starts = values.get("init_embeds") is not None or values.get("initializer_mode") == "random"
    needed = {each.name for each in OPTIONS.values() if each.required}
    needed |= set() if starts else {"initializer_token"}
    return [name for name in OPTIONS if name in needed and name not in values]


def _refuse_contradictions(config: RunConfig) -> None:
    refuse_contradictory_rows(config.concept, config.optimizer, config.training.max_train_steps)
    optimizer, output, steps = config.optimizer, config.output, config.training.max_train_steps
    repeats, sources = config.images.repeats, config.images.train_data_dir
    if len(repeats) not in (1, len(sources)):
        raise ConfigError(
            "repeats",
            expected=f"one number, or one for each train_data_dir ({len(sources)})",
            found=f"{len(repeats)} numbers",
        )
    warms_up = optimizer.lr_scheduler not in WITHOUT_WARMUP
    if warms_up and steps is not None and optimizer.lr_warmup_steps >= steps:
        raise ConfigError(
            "lr_warmup_steps",
            expected=f"fewer than max_train_steps ({steps}) with lr_scheduler {optimizer.lr_scheduler}",
            found=str(optimizer.lr_warmup_steps),
            remedy="Lower lr_warmup_steps (0 is no warmup) or raise max_train_steps.",
        )
    if config.model.attention == "cudnn" and config.model.compute_dtype == "float32":
        raise ConfigError(
            "attention",
            expected="auto, plain or blockwise with mixed_precision no",
            found="cudnn",
            remedy="Set mixed_precision to bf16: cuDNN's kernel has no float32.",
        )
    hosts = config.hosts
    places = {name: getattr(hosts, name) for name in ("coordinator_address", "num_processes", "process_id")}
    if any(value is not None for value in places.values()):
        missing = [name for name, value in places.items() if value is None]
        if not hosts.multi_host or missing:
            raise ConfigError(
                next(name for name, value in places.items() if value is not None),
                expected=f"to be given together with {', '.join(missing) if missing else 'multi_host'}",
            )
        if (hosts.process_id or 0) >= (hosts.num_processes or 0):
            raise ConfigError(
                "process_id",
                expected=f"less than num_processes ({hosts.num_processes})",
                found=str(hosts.process_id),
            )
    if config.model.rescale_betas_zero_snr and config.model.prediction_type == "epsilon":
        raise ConfigError(
            "rescale_betas_zero_snr",
            expected="not to be true with prediction_type epsilon",
            remedy="From pure noise, predicted noise says nothing of the picture: leave one of them out.",
        )
    if output.overwrite_output_dir and output.resume_from_checkpoint is not None:
        raise ConfigError(
            "overwrite_output_dir",
            expected="not to be given together with resume_from_checkpoint",
            remedy="One starts again, the other goes on: leave one of them out.",
        )
    _refuse_contradictory_prompts(config.prompts)
    _refuse_contradictory_losses(config.loss, config.concept.placeholder_token)


def _refuse_contradictory_prompts(prompts: PromptOptions) -> None:
    if prompts.template_file is not None and prompts.templates is not None:
        raise ConfigError(
            "template_file",
            expected="not to be given together with templates",
            remedy="One is your own set, the other a built-in one: leave one of them out.",
        )
    if (prompts.caption_file is not None) != (prompts.captions == "caption_file"):
        raise ConfigError(
            "caption_file",
            expected="a file together with captions caption_file",
            found=f"captions {prompts.captions} and {'no' if prompts.caption_file is None else 'a'} file",
            remedy="Give both or neither.",
        )
    if prompts.templates == "caption" and prompts.captions == "none":
        raise ConfigError(
            "templates",
            expected="object or style with captions none",
            found="caption",
            remedy="Say with captions where they come from.",
        )
    try:
        re.compile(prompts.filename_pattern or "")
    except re.error as error:
        raise ConfigError(
            "filename_pattern",
            expected="a regular expression",
            found=f"{prompts.filename_pattern!r} ({error})",
        ) from None


# Options of the loss that do nothing without another one.
_NEEDS = {
    "adaptive_noise_scale": "noise_offset",
    "multires_noise_discount": "multires_noise_iterations",
    "class_prompt": "class_data_dir",
    "prior_loss_weight": "class_data_dir",
}


def _refuse_contradictory_losses(loss: LossOptions, placeholder_token: str) -> None:
    for name, needed in _NEEDS.items():
        if getattr(loss, name) is not None and not getattr(loss, needed):
            raise ConfigError(
                name,
                expected=f"{needed} beside it",
                found=f"{name} without {needed}",
                remedy=f"Give {needed} too, or leave {name} out.",
            )
    for name in ("huber_c", "huber_schedule"):
        if getattr(loss, name) is not None and loss.loss_type not in ("huber", "smooth_l1"):
            raise ConfigError(
                name,
                expected="loss_type huber or smooth_l1 beside it",
                found=f"loss_type {loss.loss_type}",
                remedy=f"Set loss_type to huber, or leave {name} out.",
            )
    if loss.snr_gamma is not None and loss.debiased_estimation_loss:
        raise ConfigError(
            "snr_gamma",
            expected="not to be given together with debiased_estimation_loss",
            remedy="Both weigh the timesteps: leave one of them out.",
        )
    low, high = loss.min_timestep, loss.max_timestep
    if low is not None and high is not None and low >= high:
        raise ConfigError(
            "min_timestep",
            expected=f"less than max_timestep ({high})",
            found=str(low),
            remedy="min_timestep is the first that is trained, max_timestep the first that is not.",
        )
    if loss.class_prompt is not None and placeholder_token not in loss.class_prompt:
        raise ConfigError(
            "class_prompt",
            expected=f"a prompt with placeholder_token {placeholder_token} in it",
            found=repr(loss.class_prompt),
            remedy="Only the new word learns, so a prompt without it would change nothing.",
        )
