"""Finding a model: a folder or file here, or just the needed files of a repository on the Hub."""

import functools
import glob
import os
import pathlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from ti_flax.errors import WeightsError
from ti_flax.models.weights.model_folder import (
    WITH_WEIGHTS,
    choose_weights,
    names_in,
    require_variant,
    with_second_parts,
)
from ti_flax.models.weights.other_kinds import refuse_parts

_COMPONENTS = ("tokenizer", "scheduler", "text_encoder", "unet", "vae")
# Parts without which a model cannot be used; an SDXL model has the last two as well.
_NEEDED = frozenset({*_COMPONENTS, "tokenizer_2", "text_encoder_2"})
_DEMO = "python train_flax.py --config configs/demo.yaml needs no download."


class _Sought(NamedTuple):
    """What is looked for on the Hub, for messages.

    Attributes:
      what: it is.
      local: what may be named in its place.
      otherwise: what else to do where the Hub gives nothing, a full sentence; empty for nothing.
    """

    what: str
    local: str
    otherwise: str = ""


_MODEL = _Sought("model", "a local folder", _DEMO)


def resolve_model(
    name_or_path: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    components: Sequence[str] = _COMPONENTS,
    weights: bool = True,
) -> pathlib.Path:
    """Return the folder or file of a model, downloaded first where the name is that of a Hub repository.

    Only the named components are downloaded, with one format of weights each or none; of an SDXL model the
    second text encoder and tokenizer come with the first. Where the Hub cannot be reached, files downloaded
    before are used.

    Args:
      name_or_path: a local folder or file, or `owner/name`.
      revision: branch, tag or commit on the Hub.
      variant: as in `model.fp16.safetensors`, of the parts that have it.
      components: what will be read; `safety_checker` and `feature_extractor` may be among them.
      weights: False for the config files alone.

    Raises:
      WeightsError: when there is no such folder or repository, the Hub cannot be reached, or refuses.
    """
    folder = pathlib.Path(os.path.expanduser(name_or_path))
    if folder.is_dir():
        _check_folder(folder)
        if components:
            require_variant(names_in(folder), variant, f"model {folder}")
        return folder
    if folder.is_file():
        return folder
    needed = functools.partial(needed_files, variant=variant, components=components, weights=weights)
    return _download(_repository(name_or_path, "model"), revision, needed, _MODEL)


def resolve_vae(name_or_path: str, *, variant: str | None = None, weights: bool = True) -> pathlib.Path:
    """Return the folder or file of an autoencoder, downloaded first where the name is a Hub repository's.

    Args:
      name_or_path: a folder of a VAE or of a model that has one, a file, or `owner/name` of either.
      variant: taken where the repository has it.
      weights: False for the config file alone.

    Raises:
      WeightsError: as `resolve_model`.
    """
    place = pathlib.Path(os.path.expanduser(name_or_path))
    if place.is_file() or (place.is_dir() and _holds_vae(place)):
        return place
    if place.is_dir():
        present = ", ".join(sorted(entry.name for entry in place.iterdir())[:5]) or "nothing"
        raise WeightsError(
            f"pretrained_vae_model_name_or_path {name_or_path}",
            expected="a folder with a VAE's config.json and weights, or a model folder",
            found=present,
        )
    needed = functools.partial(needed_vae_files, variant=variant, weights=weights)
    return _download(_repository(name_or_path, "VAE"), None, needed)


def resolve_files(name_or_path: str, files: Sequence[str], what: str, example: str) -> pathlib.Path:
    """Return a folder with some files, downloaded first where the name is that of a Hub repository.

    Args:
      name_or_path: a local folder, or `owner/name`.
      files: names of the files.
      what: the repository is, for messages.
      example: a repository that has them.

    Raises:
      WeightsError: a file is missing there, or as `resolve_model`.
    """
    folder, listed = pathlib.Path(os.path.expanduser(name_or_path)), " and ".join(files)

    def needed(names: Collection[str], *, where: str) -> list[str]:
        lacking = [name for name in files if name not in names]
        if lacking:
            remedy = f"Name a repository that has them, such as {example}."
            if folder.is_dir():
                remedy = f"Put {listed} into one folder, as they are in {example} on the Hub."
            expected, found = f"a {what} with {listed}", f"no {lacking[0]}"
            raise WeightsError(where, expected=expected, found=found, remedy=remedy)
        return list(files)

    if folder.is_file():
        expected, remedy = f"a folder with {listed}", "Give the folder that it is in."
        raise WeightsError(f"{what} {folder}", expected=expected, found="a file", remedy=remedy)
    if folder.is_dir():
        needed([entry.name for entry in folder.iterdir()], where=f"{what} {folder}")
        return folder
    place = f"a folder with {listed}"
    return _download(_repository(name_or_path, what, place), None, needed, _Sought(what, place))


class Missing(NamedTuple):
    """What is still to be downloaded.

    Attributes:
      repository: on the Hub.
      files: names and bytes; the bytes are None where the Hub does not say.
    """

    repository: str
    files: dict[str, int | None]


def missing_files(
    name_or_path: str, folder: pathlib.Path, needed: Callable[..., list[str]], revision: str | None = None
) -> Missing | None:
    """Return what a run would download of a repository; None of what is a folder or file here.

    Args:
      name_or_path: as for `resolve_model`.
      folder: where its config files are.
      needed: chooses among the names of its files.
      revision: branch, tag or commit on the Hub.

    Raises:
      WeightsError: the Hub cannot be reached, and not all is here.
    """
    import huggingface_hub
    from huggingface_hub import errors

    if pathlib.Path(os.path.expanduser(name_or_path)).exists():
        return None
    try:
        api = huggingface_hub.HfApi()
        said = api.model_info(name_or_path, revision=revision, files_metadata=True).siblings or []
    except (OSError, getattr(errors, "HTTPError", OSError)) as error:
        _downloaded_before(name_or_path, revision, needed, error)
        return Missing(name_or_path, {})
    wanted = {*needed([file.rfilename for file in said], where=f"model {name_or_path}")}
    files = {file.rfilename: file.size for file in said if file.rfilename in wanted}
    return Missing(name_or_path, {name: size for name, size in files.items() if not (folder / name).exists()})


def needed_vae_files(
    names: Collection[str], *, variant: str | None, where: str, weights: bool = True
) -> list[str]:
    """Choose the files of the autoencoder that is a repository, or is in the folder `vae/` of one.

    Raises:
      WeightsError: when there is none.
    """
    prefix = "vae/" if "vae/config.json" in names else ""
    inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    if "config.json" not in inside:
        raise WeightsError(where, expected="a VAE's config.json, or one in vae/", found="none")
    chosen = choose_weights(inside, "vae", variant, where) if weights else []
    return [f"{prefix}{name}" for name in ("config.json", *chosen)]


def _holds_vae(folder: pathlib.Path) -> bool:
    return any((place / "config.json").is_file() for place in (folder, folder / "vae"))


def _repository(name_or_path: str, what: str, local: str = "") -> str:
    """Return a name that can be one on the Hub, or say that a path leads nowhere."""
    owner, slash, name = name_or_path.partition("/")
    is_file = pathlib.Path(name_or_path).suffix in (".safetensors", ".ckpt", ".pt", ".bin", ".onnx")
    if is_file or not slash or not owner.strip(".~") or not name or "/" in name or "\\" in name_or_path:
        raise WeightsError(
            f"{what} {name_or_path}",
            expected=f"{local or f'a {what} folder, a file'}, or a Hub repository owner/name",
            found="no such file" if is_file else "no such folder",
            remedy="Check the path.",
        )
    return name_or_path


def needed_files(
    names: Collection[str],
    *,
    variant: str | None,
    components: Sequence[str],
    where: str,
    weights: bool = True,
) -> list[str]:
    """Choose the files of a repository that the components need, one format of weights each or none.

    Of an SDXL model the second text encoder and tokenizer are chosen with the first.

    Raises:
      WeightsError: when a component is missing or the model is of another kind.
    """
    parts = {name.split("/")[0] for name in names if "/" in name}
    refuse_parts(parts, where)
    require_variant(names, variant, where)
    chosen = [name for name in names if name == "model_index.json"]
    for component in with_second_parts(components, parts):
        inside = [name.removeprefix(f"{component}/") for name in names if name.startswith(f"{component}/")]
        if not inside and component in _NEEDED:
            raise WeightsError(where, expected=f"the folder {component}/ of a diffusers model", found="none")
        wanted = [name for name in inside if name.endswith((".json", ".txt")) and ".index." not in name]
        if weights and component in WITH_WEIGHTS and inside:
            wanted += _weights(inside, component, variant, where)
        chosen += [f"{component}/{name}" for name in wanted]
    return chosen


def _weights(inside: list[str], component: str, variant: str | None, where: str) -> list[str]:
    """Choose a component's weights; a part that is only carried along may have none that are read."""
    try:
        return choose_weights(inside, component, variant, f"{where}/{component}")
    except WeightsError:
        if component in _NEEDED:
            raise
        return []


def _check_folder(folder: pathlib.Path) -> None:
    if (folder / "model_index.json").exists() or (folder / "unet").is_dir():
        return
    present = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) or "nothing"
    raise WeightsError(
        f"model {folder}", expected="a diffusers model folder with model_index.json", found=present
    )


def _download(
    repository: str, revision: str | None, needed: Callable[..., list[str]], sought: _Sought = _MODEL
) -> pathlib.Path:
    import huggingface_hub
    from huggingface_hub import errors

    # The name of the HTTP library's base error, which changed with the library; requests' is an OSError.
    unreachable = (OSError, getattr(errors, "HTTPError", OSError))
    try:
        files = huggingface_hub.HfApi().model_info(repository, revision=revision).siblings or []
        names = [file.rfilename for file in files]
        wanted = needed(names, where=f"{sought.what} {repository}")
        patterns = [glob.escape(name) for name in wanted]
        folder = huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=patterns)
        return pathlib.Path(folder)
    except errors.LocalEntryNotFoundError as error:
        return _downloaded_before(repository, revision, needed, error, sought)
    except errors.HfHubHTTPError as error:
        raise _refused(repository, revision, error, sought) from None
    except errors.HFValidationError as error:
        where = f"{sought.what} {repository}"
        raise WeightsError(where, expected="owner/name", found=str(error)) from None
    except unreachable as error:
        return _downloaded_before(repository, revision, needed, error, sought)


def _downloaded_before(
    repository: str,
    revision: str | None,
    needed: Callable[..., list[str]],
    error: Exception,
    sought: _Sought = _MODEL,
) -> pathlib.Path:
    """Return the cached copy of a repository if it holds the components, else say why there is none."""
    import huggingface_hub

    try:
        folder = pathlib.Path(
            huggingface_hub.snapshot_download(repository, revision=revision, local_files_only=True)
        )
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        needed(names, where=str(folder))
        return folder
    except (OSError, ValueError, WeightsError, huggingface_hub.errors.HfHubHTTPError):
        otherwise = f"; {sought.otherwise}" if sought.otherwise else "."
        raise WeightsError(
            f"{sought.what} {repository}",
            expected="the Hugging Face Hub or a downloaded copy",
            found=f"no connection ({type(error).__name__}: {_first_line(error)}) and no copy",
            remedy=f"Check the network, or give {sought.local}{otherwise}",
        ) from None


def _refused(repository: str, revision: str | None, error: Exception, sought: _Sought) -> WeightsError:
    """Say in one line what the Hub's answer means."""
    from huggingface_hub import errors

    where = f"{sought.what} {repository}"
    page = f"https://huggingface.co/{repository}"
    if isinstance(error, errors.GatedRepoError):
        remedy = f"Accept its terms on {page}, then log in with `hf auth login`."
        return WeightsError(where, expected="access", found="a gated repository", remedy=remedy)
    if isinstance(error, errors.RevisionNotFoundError):
        return WeightsError(where, expected=f"the revision {revision}", found="none", remedy=f"See {page}.")
    if isinstance(error, errors.RepositoryNotFoundError):
        remedy = "Check the spelling, or log in with `hf auth login` if it is private."
        return WeightsError(where, expected="a repository on the Hub", found="none", remedy=remedy)
    otherwise = f"Or: {sought.otherwise}" if sought.otherwise else f"Or give {sought.local}."
    return WeightsError(where, expected="files from the Hub", found=_first_line(error), remedy=otherwise)


def _first_line(error: Any) -> str:
    return next(iter(str(error).strip().splitlines()), "no details")[:200]
