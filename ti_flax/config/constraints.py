"""Options that exclude or need each other."""

from __future__ import annotations

import pathlib
import re
import typing

from ti_flax.config.options import (
    ADAM_OPTIONS,
    SCHEDULE_FREE,
    WITHOUT_WARMUP,
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
)
from ti_flax.config.stepped_values import parse_steps
from ti_flax.config.values import options_of
from ti_flax.errors import ConfigError, redacted

if typing.TYPE_CHECKING:
    from ti_flax.config.run_config import RunConfig

# The learning rate that `polynomial` ends at, the reference scheduler's default.
POLYNOMIAL_LR_END = 1e-7


def refuse_contradictions(config: RunConfig) -> None:
    """Raise `ConfigError` for options that cannot both do what they say, with both names."""
    steps = config.training.max_train_steps
    _refuse_starts(config.concept)
    _refuse_rates(config.optimizer, steps)
    _refuse_scheduler_options(config.optimizer, steps)
    _refuse_warmup(config.optimizer, steps)
    _refuse_optimizers(config.optimizer)
    _refuse_models(config.model)
    _refuse_hosts(config.hosts)
    _refuse_images(config.images)
    _refuse_prompts(config.prompts)
    _refuse_losses(config.loss, config.concept.placeholder_token)
    _refuse_monitoring(config.monitoring)
    if config.training.max_nonfinite_steps is not None and config.training.on_nonfinite != "skip":
        raise ConfigError(
            "max_nonfinite_steps",
            expected="on_nonfinite skip beside it",
            found=f"on_nonfinite {config.training.on_nonfinite}",
            remedy="Without it the run ends at the first such update.",
        )
    refuse_uploads(config.hub, config.output)
    if config.output.overwrite_output_dir and config.output.resume_from_checkpoint is not None:
        raise ConfigError(
            "overwrite_output_dir",
            expected="not to be given together with resume_from_checkpoint",
            remedy="One starts again, the other goes on: leave one of them out.",
        )


# The Hub's rules: an owner, if any, and a name of at most 96 letters, digits and - _ . each.
_REPOSITORY = re.compile(r"(?:[A-Za-z0-9_][\w.-]{0,95}/)?[A-Za-z0-9_](?:[\w.-]{0,94}\w)?", re.ASCII)


def refuse_uploads(hub: HubOptions, output: OutputOptions) -> None:
    """Raise `ConfigError` for an upload that cannot be what is asked for, before the Hub is asked."""
    if not hub.push_to_hub:
        return
    name = hub.hub_model_id
    if name is None:
        name = pathlib.Path(output.output_dir).resolve().name
    strange = "--" in name or ".." in name or name.endswith(".git")
    if strange or not _REPOSITORY.fullmatch(name):
        raise ConfigError(
            "hub_model_id",
            expected="owner/name or a name, of letters, digits and single - _ . between them",
            found=repr(redacted(name, hub.hub_token))
            + ("" if hub.hub_model_id is not None else ", the name of output_dir"),
            remedy="Give for example hub_model_id your-name/cat-toy.",
        )
    if hub.hub_whole_pipeline and output.only_save_embeds:
        raise ConfigError(
            "hub_whole_pipeline",
            expected="not to be given together with only_save_embeds",
            remedy="One uploads the pipeline, the other writes none: leave one of them out.",
        )
    if hub.hub_license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", hub.hub_license):
        raise ConfigError(
            "hub_license",
            expected="a license in the Hub's spelling, such as cc-by-4.0 or mit",
            found=repr(redacted(hub.hub_license, hub.hub_token)),
        )


def _refuse_starts(concept: ConceptOptions) -> None:
    names = ["initializer_token"] if concept.initializer_token is not None else []
    names += ["init_embeds"] if concept.init_embeds is not None else []
    if concept.initializer_mode == "random":
        if names:
            raise ConfigError(
                "initializer_mode",
                expected=f"spread or mean together with {names[0]}",
                found="random, which starts from neither words nor a file",
                remedy=f"Set {names[0]} to null, or leave initializer_mode out.",
            )
        return
    if len(names) == 2:
        raise ConfigError(
            "initializer_token and init_embeds exclude each other",
            remedy="Set one of them to null: the vectors start from words or from a file.",
        )
    if not names:
        raise ConfigError(
            "initializer_token",
            expected="a known word",
            found="null",
            remedy="Name one, or give init_embeds or initializer_mode random.",
        )


def _refuse_rates(optimizer: OptimizerOptions, steps: int | None) -> None:
    rate, scheduler = optimizer.learning_rate, optimizer.lr_scheduler
    if isinstance(rate, str):
        if scheduler != "constant":
            raise ConfigError(
                "lr_scheduler",
                expected="constant with a learning_rate in steps",
                found=scheduler,
                remedy="Give learning_rate one number, or leave lr_scheduler out.",
            )
        last = parse_steps(rate)[-1][1]
        if last is not None and (steps is None or last < steps):
            raise ConfigError(
                "learning_rate",
                expected=f"a last rate without a step, or until max_train_steps ({steps or 'null'})",
                found=f"{rate!r}, which ends at step {last}",
                remedy=f'Write for example "{rate.rpartition(":")[0]}", or set max_train_steps to {last}.',
            )
    elif scheduler == "polynomial" and rate <= POLYNOMIAL_LR_END:
        raise ConfigError(
            "learning_rate",
            expected=f"more than {POLYNOMIAL_LR_END:g}, where lr_scheduler polynomial ends",
            found=f"{rate:g}",
        )


def _refuse_scheduler_options(optimizer: OptimizerOptions, steps: int | None) -> None:
    rules, scheduler = optimizer.lr_step_rules, optimizer.lr_scheduler
    if (rules is None) == (scheduler == "piecewise_constant"):
        raise ConfigError(
            "lr_step_rules" if rules is None else "lr_scheduler",
            expected='rules such as "1:10,0.1:20,0.005" with lr_scheduler piecewise_constant'
            if rules is None
            else "piecewise_constant with lr_step_rules",
            found="null" if rules is None else scheduler,
        )
    if rules is not None:
        _check_rules(rules)
    falls = optimizer.lr_decay_steps
    if scheduler != "warmup_stable_decay" or falls is None or steps is None:
        return
    if falls > steps - optimizer.lr_warmup_steps:
        raise ConfigError(
            "lr_decay_steps",
            expected=f"at most max_train_steps - lr_warmup_steps ({steps - optimizer.lr_warmup_steps})",
            found=str(falls),
        )


def _check_rules(rules: str) -> None:
    try:
        last = parse_steps(rules)[-1][1]
        problem = "" if last is None else "The last factor holds to the end, so it has no step"
    except ValueError as error:
        problem = str(error)
    if problem:
        raise ConfigError(
            "lr_step_rules",
            expected='factors such as "1:10,0.1:20,0.005"',
            found=repr(rules),
            remedy=f"{problem}.",
        )


def _refuse_optimizers(optimizer: OptimizerOptions) -> None:
    name = optimizer.optimizer
    defaults = {each.name: each.default for each in options_of(OptimizerOptions)}
    for option, users in ADAM_OPTIONS.items():
        value = getattr(optimizer, option)
        if name not in users and value != defaults[option]:
            raise ConfigError(
                option,
                expected=f"to be left out with optimizer {name}",
                found=f"{value:g}",
                remedy="Give the optimizer's own options with optimizer_args.",
            )
    if optimizer.max_grad_norm is not None and optimizer.grad_clip_value is not None:
        raise ConfigError(
            "max_grad_norm and grad_clip_value exclude each other",
            remedy="Clip gradients by their norm or number by number: leave one of them out.",
        )
    if name not in SCHEDULE_FREE:
        return
    if optimizer.lr_scheduler not in ("constant", "constant_with_warmup"):
        raise ConfigError(
            "lr_scheduler",
            expected=f"constant or constant_with_warmup with optimizer {name}",
            found=optimizer.lr_scheduler,
            remedy="Its average takes the place of a falling rate.",
        )
    if optimizer.use_ema:
        raise ConfigError(
            f"use_ema and optimizer {name} exclude each other",
            remedy="A schedule-free optimizer averages the vectors itself: leave use_ema out.",
        )
    if optimizer.embedding_norm != "none":
        raise ConfigError(
            f"embedding_norm and optimizer {name} exclude each other",
            remedy="A schedule-free average does not survive rescaling: leave embedding_norm out.",
        )


def _refuse_warmup(optimizer: OptimizerOptions, steps: int | None) -> None:
    warms_up = optimizer.lr_scheduler not in WITHOUT_WARMUP
    if warms_up and steps is not None and optimizer.lr_warmup_steps >= steps:
        raise ConfigError(
            "lr_warmup_steps",
            expected=f"fewer than max_train_steps ({steps}) with lr_scheduler {optimizer.lr_scheduler}",
            found=str(optimizer.lr_warmup_steps),
            remedy="Lower lr_warmup_steps (0 is no warmup) or raise max_train_steps.",
        )


def _refuse_models(model: ModelOptions) -> None:
    if model.attention == "cudnn" and model.compute_dtype == "float32":
        raise ConfigError(
            "attention",
            expected="auto, plain or blockwise with mixed_precision no",
            found="cudnn",
            remedy="Set mixed_precision to bf16: cuDNN's kernel has no float32.",
        )
    if model.rescale_betas_zero_snr and model.prediction_type == "epsilon":
        raise ConfigError(
            "rescale_betas_zero_snr",
            expected="not to be true with prediction_type epsilon",
            remedy="From pure noise, predicted noise says nothing of the picture: leave one of them out.",
        )


def _refuse_hosts(hosts: HostOptions) -> None:
    places = {name: getattr(hosts, name) for name in ("coordinator_address", "num_processes", "process_id")}
    given = [name for name, value in places.items() if value is not None]
    missing = [name for name, value in places.items() if value is None]
    if given and (missing or not hosts.multi_host):
        others = ", ".join(missing) if missing else "multi_host"
        raise ConfigError(given[0], expected=f"to be given together with {others}")
    if given and (hosts.process_id or 0) >= (hosts.num_processes or 0):
        raise ConfigError(
            "process_id",
            expected=f"less than num_processes ({hosts.num_processes})",
            found=str(hosts.process_id),
        )


def _refuse_prompts(prompts: PromptOptions) -> None:
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


def _refuse_losses(loss: LossOptions, placeholder_token: str) -> None:
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


def _refuse_images(images: ImageOptions) -> None:
    repeats, sources = images.repeats, images.train_data_dir
    if len(repeats) not in (1, len(sources)):
        raise ConfigError(
            "repeats",
            expected=f"one number, or one for each train_data_dir ({len(sources)})",
            found=f"{len(repeats)} numbers",
        )
    if images.enable_bucket and images.center_crop:
        raise ConfigError(
            "enable_bucket",
            expected="not to be given together with center_crop",
            remedy="center_crop makes squares, enable_bucket keeps other shapes: leave one of them out.",
        )
    for name in ("bucket_reso_steps", "max_buckets"):
        if not images.enable_bucket and getattr(images, name) != getattr(ImageOptions, name):
            raise ConfigError(
                name,
                expected="enable_bucket with it",
                found="enable_bucket false",
                remedy=f"Set enable_bucket, or leave {name} out.",
            )
    largest = int(images.resolution / 6**0.5)  # the least shape that is no square is 2 x 3 steps
    if images.enable_bucket and images.bucket_reso_steps > largest:
        raise ConfigError(
            "bucket_reso_steps",
            expected=f"at most {largest // 8 * 8} with resolution {images.resolution}",
            found=str(images.bucket_reso_steps),
            remedy="Larger steps leave no shape but the square.",
        )
    if images.alpha_mask and images.mask_dir is not None:
        raise ConfigError(
            "alpha_mask",
            expected="not to be given together with mask_dir",
            remedy="A mask is the picture's alpha channel or a file: leave one of them out.",
        )
    if images.unmasked_weight and not images.alpha_mask and images.mask_dir is None:
        raise ConfigError(
            "unmasked_weight",
            expected="alpha_mask or mask_dir with it",
            found="neither",
            remedy="Without masks every part counts the same.",
        )


def _refuse_monitoring(monitoring: MonitoringOptions) -> None:
    if monitoring.quiet and monitoring.verbose:
        raise ConfigError("quiet", expected="not to be given together with verbose", remedy="Leave one out.")
    if monitoring.eval_steps == 0:
        for name in ("early_stopping", "load_best_model_at_end", "max_eval_samples"):
            if getattr(monitoring, name):
                raise ConfigError(
                    "eval_steps",
                    expected=f"at least 1 together with {name}",
                    found="0, which leaves evaluations out",
                    remedy=f"Leave eval_steps or {name} out.",
                )
    for name in ("early_stopping_patience", "early_stopping_threshold"):
        if getattr(monitoring, name) is not None and not monitoring.early_stopping:
            raise ConfigError(
                name,
                expected="early_stopping beside it",
                found="early_stopping false",
                remedy=f"Set early_stopping, or leave {name} out.",
            )
    if "none" in monitoring.report_to and len(monitoring.report_to) > 1:
        raise ConfigError(
            "report_to",
            expected="none alone, or the names of trackers",
            found=", ".join(monitoring.report_to),
        )
