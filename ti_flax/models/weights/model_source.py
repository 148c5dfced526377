"""Where a base model is read from, and what of it is taken from elsewhere or read differently."""

import dataclasses
import functools
import pathlib
from typing import Any

from jax.typing import DTypeLike

from ti_flax.errors import ConfigError
from ti_flax.models.weights.model_folder import check_kind, read_config, read_json
from ti_flax.models.weights.parameters import Tree, read_place, read_tensors
from ti_flax.models.weights.single_file import SingleFile, open_single_file, open_vae_file

# Schedulers of diffusers that know `rescale_betas_zero_snr`; others would pass over it.
_ZERO_SNR_SCHEDULERS = frozenset(
    {
        "DDIMScheduler",
        "DDPMScheduler",
        "DPMSolverMultistepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "UniPCMultistepScheduler",
    }
)


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """The files of a base model, and what the user wants otherwise than they say.

    Attributes:
      place: a model folder, or a single file with a whole model.
      variant: of a folder's weight files, as in `model.fp16.safetensors`, of the parts that have it.
      config_folder: a model folder whose config files describe a single file.
      vae: another autoencoder: its folder, a model folder that has one, or a file.
      clip_skip: layers at the end of the text encoder that are not run.
      prediction_type: `epsilon` or `v_prediction`; None leaves it to the scheduler's config.
      rescale_betas_zero_snr: whether the last timestep is pure noise (arXiv:2305.08891); None as above.
    """

    place: pathlib.Path
    variant: str | None = None
    config_folder: pathlib.Path | None = None
    vae: pathlib.Path | None = None
    clip_skip: int = 0
    prediction_type: str | None = None
    rescale_betas_zero_snr: bool | None = None

    @functools.cached_property
    def file(self) -> SingleFile | None:
        """The single file, listed; None where the model is a folder."""
        if self.place.is_dir():
            return None
        return open_single_file(
            self.place,
            self.config_folder,
            prediction_type=self.prediction_type,
            with_vae=self.vae is None,
        )

    @property
    def components(self) -> tuple[str, ...]:
        """The parts with parameters that the model has, told by its files."""
        second = ("text_encoder_2",) if (self.place / "text_encoder_2").is_dir() else ()
        return ("text_encoder", *second, "unet", "vae")

    def configs(self, components: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """Return the configs of components and of the scheduler, with the user's changes.

        Raises:
          WeightsError: a config is missing, or this is another kind of model.
          ConfigError: the changes contradict what the model is.
        """
        if self.file is None:
            check_kind(self.place)
            configs = {part: read_config(self.place, part) for part in (*components, "scheduler")}
        else:
            configs = {part: dict(config) for part, config in self.file.configs.items()}
        if self.vae is not None:
            configs["vae"] = self._vae_config()
        configs["scheduler"] = self._scheduler(configs["scheduler"])
        return configs

    def params(self, component: str, expected: Tree, dtype: DTypeLike | None) -> dict[str, Any]:
        """Read the parameters of a component, as `weights.read_params` does."""
        if component == "vae" and self.vae is not None:
            return self._vae_params(expected, dtype)
        if self.file is None:
            return read_place(self.place / component, component, expected, dtype=dtype, variant=self.variant)
        tensors = self.file.tensors[component]
        return read_tensors(tensors, component, expected, dtype=dtype, where=self.place)

    def _vae_config(self) -> dict[str, Any]:
        place = self._vae_place()
        if place.is_dir():
            return read_json(place / "config.json")
        return open_vae_file(place)[0]

    def _vae_params(self, expected: Tree, dtype: DTypeLike | None) -> dict[str, Any]:
        place = self._vae_place()
        if place.is_dir():
            return read_place(place, "vae", expected, dtype=dtype, variant=self.variant)
        return read_tensors(open_vae_file(place)[1], "vae", expected, dtype=dtype, where=place)

    def _vae_place(self) -> pathlib.Path:
        place = self.vae or self.place
        return place / "vae" if (place / "vae" / "config.json").is_file() else place

    def _scheduler(self, config: dict[str, Any]) -> dict[str, Any]:
        config = dict(config)
        if self.prediction_type is not None:
            config["prediction_type"] = self.prediction_type
        if self.rescale_betas_zero_snr is not None:
            config["rescale_betas_zero_snr"] = self.rescale_betas_zero_snr
        if self.rescale_betas_zero_snr:
            # Only so does a sampler begin at the timestep that is pure noise (section 3.3 of the paper).
            config["timestep_spacing"] = "trailing"
            name = str(config.get("_class_name", "")).removeprefix("Flax")
            if name not in _ZERO_SNR_SCHEDULERS:
                config["_class_name"] = "DDIMScheduler"
        predicts_noise = (config.get("prediction_type") or "epsilon") == "epsilon"
        if predicts_noise and config.get("rescale_betas_zero_snr"):
            raise ConfigError(
                "rescale_betas_zero_snr",
                expected="false with prediction_type epsilon",
                found="true: from pure noise, predicted noise says nothing of the image",
                remedy="Set rescale_betas_zero_snr to false, or prediction_type to v_prediction if the model "
                "was trained for it.",
            )
        return config
