"""Where a base model is read from, and what of it is taken from elsewhere or read differently."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

from jax.typing import DTypeLike

from ti_flax.errors import ConfigError
from ti_flax.models.weights.derived_configs import with_zero_snr
from ti_flax.models.weights.model_folder import (
    check_kind,
    folder_parts,
    has_second_parts,
    read_config,
    read_index,
    read_json,
)
from ti_flax.models.weights.other_kinds import refuse_configs
from ti_flax.models.weights.parameters import (
    Tree,
    check_place,
    check_tensors,
    read_place,
    read_tensors,
)
from ti_flax.models.weights.single_file import SingleFile, open_single_file, open_vae_file

COMPONENTS = ("text_encoder", "unet", "vae")
SDXL_COMPONENTS = ("text_encoder", "text_encoder_2", "unet", "vae")


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

    @functools.cached_property
    def is_sdxl(self) -> bool:
        """Whether it is an SDXL model, told by its parts.

        Raises:
          WeightsError: it is another kind of model than Stable Diffusion 1.x, 2.x and XL.
        """
        if self.file is not None:
            return self.file.is_sdxl
        check_kind(self.place)
        return has_second_parts(folder_parts(self.place))

    @property
    def components(self) -> tuple[str, ...]:
        """The model's parts that have parameters, in the order of its bundle."""
        return SDXL_COMPONENTS if self.is_sdxl else COMPONENTS

    @property
    def force_zeros_for_empty_prompt(self) -> bool:
        """Whether zeros stand for an empty prompt's encoding, as SDXL base 1.0 was trained."""
        folder = self.place if self.file is None else self.config_folder
        said = {} if folder is None else read_index(folder)
        return self.is_sdxl and said.get("force_zeros_for_empty_prompt", True) is not False

    def configs(self, components: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """Return the configs of components and of the scheduler, with the user's changes.

        Args:
          components: None for all that the model has.

        Raises:
          WeightsError: a config is missing, or this is another kind of model.
          ConfigError: the changes contradict what the model is.
        """
        sdxl = self.is_sdxl
        if self.file is None:
            parts = self.components if components is None else components
            configs = {part: read_config(self.place, part) for part in (*parts, "scheduler")}
        else:
            configs = {part: dict(config) for part, config in self.file.configs.items()}
        refuse_configs(configs, self.place, sdxl=sdxl)
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

    def check_params(self, component: str, expected: Tree) -> None:
        """Check by headers alone that the files of a component hold its parameters.

        Raises:
          WeightsError: listing what is missing, left over or of another shape.
        """
        place = self._vae_place() if component == "vae" and self.vae is not None else None
        if place is not None and not place.is_dir():
            check_tensors(open_vae_file(place)[1], "vae", expected, where=place)
        elif place is not None or self.file is None:
            check_place(place or self.place / component, component, expected, variant=self.variant)
        else:
            check_tensors(self.file.tensors[component], component, expected, where=self.place)

    def _vae_config(self) -> dict[str, Any]:
        place = self._vae_place()
        if place.is_dir():
            return read_json(place / "config.json")
        return open_vae_file(place, sdxl=self.is_sdxl)[0]

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
        if self.rescale_betas_zero_snr:
            config = with_zero_snr(config)
        elif self.rescale_betas_zero_snr is not None:
            config["rescale_betas_zero_snr"] = False
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
