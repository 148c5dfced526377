"""The lock files hold what requirements_flax.txt asks for; what the Dockerfile copies is there."""

import importlib.metadata
import re
import subprocess
from pathlib import Path

import lock_requirements
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
TARGETS = [(name, python) for name in lock_requirements.EXTRAS for python in ("3.11", "3.12")]


def environment(python):
    """The markers' variables of this Python version on Linux."""
    of_linux = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
    of_python = {"python_version": python, "python_full_version": f"{python}.5"}
    return {**of_linux, **of_python, "implementation_name": "cpython", "os_name": "posix", "extra": ""}


def applies(requirement, variables):
    return requirement.marker is None or requirement.marker.evaluate(variables)


def plain(name):
    """A package's name as all spellings of it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def entries(text):
    """The lines of a lock file by package: the requirement, and its hashes."""
    lines = re.sub(r"\\\n", "", re.sub(r"(?m)^#.*\n", "", text)).splitlines()
    found = [line.partition("--hash=") for line in lines]
    return [(Requirement(asked.strip()), re.findall(r"sha256:\w{64}\b", rest)) for asked, _, rest in found]


def locked_for(name, python):
    """Version by package, for one version of Python."""
    text = (ROOT / f"requirements_lock_{name}.txt").read_text(encoding="utf-8")
    held = [each for each, _ in entries(text) if applies(each, environment(python))]
    versions = {plain(each.name): str(each.specifier).removeprefix("==") for each in held}
    assert len(versions) == len(held)
    return versions


def asked_for(name):
    text = lock_requirements.wanted(lock_requirements.EXTRAS[name])
    return [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]


def unmet(requirements, versions):
    """The requirements that no locked version satisfies."""
    return [
        str(each)
        for each in requirements
        if plain(each.name) not in versions or versions[plain(each.name)] not in each.specifier
    ]


@pytest.mark.parametrize(("name", "python"), TARGETS)
def test_every_requirement_is_locked_at_a_version_that_it_allows(name, python):
    assert unmet(asked_for(name), locked_for(name, python)) == []


def test_a_requirement_that_has_moved_on_is_noticed():
    versions = locked_for("cpu", "3.11")
    assert unmet([Requirement("jax>=99"), Requirement("no-such-package")], versions) == [
        "jax>=99",
        "no-such-package",
    ]


@pytest.mark.parametrize(("name", "python"), TARGETS)
def test_what_a_locked_package_needs_is_locked_too(name, python):
    """Told by the packages that are installed here at their locked version."""
    versions, looked_at = locked_for(name, python), 0
    for package, version in versions.items():
        try:
            installed = importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        if installed.version == version:
            looked_at += 1
            needs = [Requirement(line) for line in installed.requires or ()]
            needed = [each for each in needs if applies(each, environment(python))]
            assert unmet(needed, versions) == [], package
    assert looked_at


@pytest.mark.parametrize("name", lock_requirements.EXTRAS)
def test_a_file_has_hashes_and_names_no_place(name):
    text = (ROOT / f"requirements_lock_{name}.txt").read_text(encoding="utf-8")
    assert all(
        hashes and re.fullmatch(r"==[\w.]+", str(asked.specifier)) and asked.url is None
        for asked, hashes in entries(text)
    )
    assert not re.search(r"://|@|--(extra-)?(index|find)|/[a-z]+/", text.replace("scripts/", ""))


def test_accelerators_have_their_packages():
    assert "jax-cuda13-plugin" in locked_for("cuda", "3.12") and "libtpu" in locked_for("tpu", "3.12")
    assert not {"jax-cuda13-plugin", "libtpu", "torch"} & {*locked_for("cpu", "3.12")}


def test_the_program_writes_what_uv_finds(tmp_path, monkeypatch, capsys):
    asked = []

    def compile_requirements(command, *, input, **options):
        asked.append((command, input, Path(command[-2]).read_text(encoding="utf-8")))
        return subprocess.CompletedProcess(command, 0, stdout="jax==1\n", stderr="")

    monkeypatch.setattr(subprocess, "run", compile_requirements)
    assert lock_requirements.main(["--output_dir", str(tmp_path)]) == 0
    assert [re.findall(r"^jax\S*?(?=>)", text, re.M) for _, text, _ in asked] == [
        ["jax"],
        ["jax[cuda13]"],
        ["jax[tpu]"],
    ]
    assert all("--generate-hashes" in command and "pytest==" in installed for command, _, installed in asked)
    assert all("+" not in installed for _, _, installed in asked)
    assert (tmp_path / "requirements_lock_tpu.txt").read_text(encoding="utf-8").endswith("\njax==1\n")
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_the_program_says_what_uv_says(tmp_path, monkeypatch, capsys):
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="no solution")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    assert lock_requirements.main(["--output_dir", str(tmp_path)]) == 2
    assert (
        capsys.readouterr().err == "error: uv pip compile: found no solution. Run it by hand to see more.\n"
    )
    assert list(tmp_path.iterdir()) == []


DOCKER = re.sub(r"\\\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", lock_requirements.EXTRAS)
def test_what_the_dockerfile_copies_is_there_and_not_ignored(name):
    seen = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", DOCKER, re.M) for word in line.split()]
    assert len(copied) >= 9
    for word in copied:
        path = word.replace("${ACCELERATOR}", name)
        assert (ROOT / path).exists() and any(
            Path(path).match(line.removeprefix("!")) for line in seen[2:]
        ), path


def test_the_dockerfile_copies_all_that_the_package_is_built_from():
    built_from = [
        "pyproject.toml",
        "setup.py",
        "requirements_flax.txt",
        "README.md",
        "ti_flax",
        "assets",
        "configs",
    ]
    assert all(re.search(rf"^COPY .*\b{re.escape(name)}", DOCKER, re.M) for name in built_from)
    assert "USER artist" in DOCKER and 'ENTRYPOINT ["ti-flax"]' in DOCKER
