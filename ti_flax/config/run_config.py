"""RunConfig: the groups of options in one tree, to and from flat names."""

import dataclasses
import typing

from ti_flax.config.concept_entry import ConceptEntry
from ti_flax.config.conditions import holds, of_each_word
from ti_flax.config.constraints import check_constraints, check_upload
from ti_flax.config.image_sources import label_of, values_of_source
from ti_flax.config.options import (
    ConceptListOptions,
    ConceptOptions,
    HostOptions,
    HubOptions,
    ImageOptions,
    LossOptions,
    ModelOptions,
    MonitoringOptions,
    OptimizerOptions,
    OutputOptions,
    PromptOptions,
    TrainingOptions,
)
from ti_flax.config.picture_size import picture_size
from ti_flax.config.presets import layered
from ti_flax.config.values import Option, checked, options_of
from ti_flax.errors import ConfigError, nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything a run is told; immutable, checked when it is made.

    Raises:
      ConfigError: a value has the wrong type or range, or two values contradict each other.
    """

    model: ModelOptions
    concept: ConceptOptions = ConceptOptions()
    concept_list: ConceptListOptions = ConceptListOptions()
    images: ImageOptions = ImageOptions()
    prompts: PromptOptions = PromptOptions()
    training: TrainingOptions = TrainingOptions()
    optimizer: OptimizerOptions = OptimizerOptions()
    loss: LossOptions = LossOptions()
    output: OutputOptions = OutputOptions()
    monitoring: MonitoringOptions = MonitoringOptions()
    hub: HubOptions = HubOptions()
    hosts: HostOptions = HostOptions()

    def __post_init__(self):
        check_constraints(OPTIONS, self.values())
        check_upload(self.hub, self.output)
        for place in self._own_sources():
            self.of_source(place)

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
        values = layered([values])
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
        return RunConfig.from_dict(layered([self._flat(), changes]))

    def _own_sources(self) -> typing.Iterator[int]:
        """Places of the sources of images that have options of their own, unless each concept checks them."""
        given = self.images.train_data_dir if self.concept_list.concepts is None else ()
        return (place for place, each in enumerate(given) if isinstance(each, ConceptEntry))

    def of_source(self, place: int) -> "RunConfig":
        """The configuration as if a source of images were the only one, with its own options.

        Args:
          place: of the source in `train_data_dir`.

        Raises:
          ConfigError: one of them cannot be; it names the source.
        """
        changes = values_of_source(OPTIONS, self.values(), place)
        try:
            return self.replace(**changes)
        except ConfigError as error:
            source = self.images.train_data_dir[place]
            raise ConfigError(f"{label_of(source, place)}: {error}") from None

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
        if self.concept_list.concepts is not None:
            return self._describe_many()
        concept, training = self.concept, self.training
        words = (
            f"{each.placeholder_token} ({concept.learnable_property}, {each.vectors}), "
            f"starting as {each.start}"
            for each in concept.each
        )
        length = f"{training.total_steps} steps"
        if training.until_done:
            length = f"until it is done, at most {length}"
        if training.max_train_steps is None:
            length = f"{training.num_train_epochs} epochs"
        separator = f"\n{' ' * 10}"
        batch = (
            f"{training.train_batch_size} x {training.gradient_accumulation_steps} accumulated, per device"
        )
        return (
            f"concept   {separator.join(words)}\n"
            f"images    {', '.join(self.images.source_paths)} "
            f"at {self._size()}\n"
            f"model     {self.model.pretrained_model_name_or_path} in {self.model.compute_dtype}\n"
            f"training  {length}, batch {batch}\n"
            f"optimizer {self.optimizer.optimizer}, learning rate {self.optimizer.learning_rate}, "
            f"{self.optimizer.lr_scheduler}\n"
            f"output    {self.output.output_dir}"
        )

    def _describe_many(self) -> str:
        listed = self.concept_list.concepts
        named = listed if isinstance(listed, str) else f"a list of {len(listed or ())}"
        return (
            f"concepts  {named}\n"
            f"model     {self.model.pretrained_model_name_or_path} in {self.model.compute_dtype}\n"
            f"output    {self.output.output_dir}"
        )

    def _size(self) -> str:
        side, most = self.images.resolution, self.images.max_buckets
        square = f"{side} x {side}"
        return f"the area of {square}, in at most {most} shapes" if self.images.enable_bucket else square

    @property
    def takes_best(self) -> bool:
        """Whether the result is that of the best evaluation, not the last step's."""
        return self.monitoring.load_best_model_at_end or self.training.until_done

    @property
    def validation_prompts(self) -> tuple[str, ...]:
        """The prompts of `validation_prompt`, with the concept's words in the place of {}."""
        return tuple(map(self.with_words, self.monitoring.validation_prompt or ()))

    @property
    def validation_negative_prompt(self) -> str:
        """What the previews move away from, likewise; empty unless one is given."""
        return self.with_words(self.monitoring.validation_negative_prompt or "")

    @property
    def preview_size(self) -> tuple[int, int]:
        """Height and width of the previews in pixels, where their file says no other."""
        side = self.images.resolution
        return picture_size(self.monitoring.validation_size or "") or (side, side)

    @property
    def class_prompt(self) -> str | None:
        """The prompt of the class images, with the concept's words in the place of {}."""
        prompt = self.loss.class_prompt
        return None if prompt is None else self.with_words(prompt)

    def with_words(self, prompt: str) -> str:
        """The prompt with the concept's words in the place of {}."""
        return prompt.replace("{}", " and ".join(self.concept.words))

    def validation_interval(self, epoch_samples: int) -> int:
        """Return the steps between two previews of a run whose epoch shows so many images.

        `validation_epochs` counts steps as diffusers' script does: an epoch is images x repeats.
        """
        if self.monitoring.validation_epochs is None:
            return self.monitoring.validation_steps
        return self.monitoring.validation_epochs * epoch_samples

    def values(self) -> dict[str, typing.Any]:
        """Return option name to value, secrets included."""
        groups = ((getattr(self, group), kind) for group, kind in GROUPS.items())
        return {each.name: getattr(group, each.name) for group, kind in groups for each in options_of(kind)}

    def of_every_concept(self) -> dict[str, typing.Any]:
        """Return option name to value, secrets included, of what each concept of a list begins with."""
        apart = {each.name for each in options_of(ConceptListOptions)}
        return {
            name: value
            for name, value in self.values().items()
            if name not in apart and not OPTIONS[name].left_out(value)
        }

    def _flat(self) -> dict[str, typing.Any]:
        values = self.values().items()
        return {
            name: _plain(value) if isinstance(value, tuple) else value
            for name, value in values
            if not OPTIONS[name].left_out(value)
        }


def _plain(values: tuple) -> object:
    """One value of an option that may have several is written as that value, a concept as a mapping."""
    plain = [each.to_plain() if isinstance(each, ConceptEntry) else each for each in values]
    several = len(plain) > 1 or isinstance(values[0], ConceptEntry)
    return plain if several else plain[0]


GROUPS: dict[str, typing.Any] = {field.name: field.type for field in dataclasses.fields(RunConfig)}
OPTIONS: dict[str, Option] = {each.name: each for kind in GROUPS.values() for each in options_of(kind)}


def missing_options(values: typing.Mapping[str, object]) -> list[str]:
    """Return the names of options that have to be given and are not, in order."""
    known = {**{name: option.default for name, option in OPTIONS.items()}, **values}
    return [
        name
        for name, option in OPTIONS.items()
        if name not in values
        and (
            option.required
            or (instead := option.rule.required_unless)
            and not all(holds(instead, said, OPTIONS) for said in of_each_word(OPTIONS, known))
        )
    ]
