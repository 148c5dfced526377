"""The cache of compiled programs: whose folder is used, and that a damaged entry is made again, once."""

import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import jax
import pytest

from ti_flax.console.messages import Display, Level, shown_on
from ti_flax.files import cache
from ti_flax.training.compiled_programs import keep_compiled_programs, mended_programs

ROOT = Path(__file__).parents[2]
ENTRY = "jit_step-" + "0" * 64 + "-cache"
READING = "Error reading persistent compilation cache entry for 'jit_step': ZstdError: truncated\nmore"


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """The user's cache folder; JAX's own folder is none, and is put back afterwards."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("TI_FLAX_CACHE", str(tmp_path / "cache"))
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "cache"
    jax.config.update("jax_compilation_cache_dir", before)


def chosen():
    return jax.config.jax_compilation_cache_dir


def test_a_folder_that_everybody_can_write_to_is_not_used(folder, capsys):
    folder.mkdir()
    folder.chmod(0o777)
    keep_compiled_programs()
    assert chosen() is None
    assert capsys.readouterr().err == (
        f"warning: compiled programs are neither read nor kept: other users can write to {folder}; "
        f"`chmod 700 {folder}` shuts them out\n"
    )
    folder.chmod(0o700)
    keep_compiled_programs()
    assert chosen() == str(folder / "compiled") and capsys.readouterr().err == ""


def test_one_that_jax_was_told_of_neither(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cache, "_is_group_of_one", lambda number: False)
    tmp_path.chmod(0o775)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    keep_compiled_programs()
    assert chosen() is None and "neither read nor kept" in capsys.readouterr().err
    assert not folder.exists()
    jax.config.update("jax_compilation_cache_dir", "gs://bucket/programs")
    keep_compiled_programs()
    assert chosen() == "gs://bucket/programs"
    jax.config.update("jax_compilation_cache_dir", "")  # which turns it off
    keep_compiled_programs()
    assert chosen() == "" and capsys.readouterr().err == ""


def test_entries_that_are_waited_for_or_were_others_are_removed(folder):
    keep_compiled_programs()
    kept, pipe = folder / "compiled" / ENTRY, folder / "compiled" / ENTRY.replace("step", "pipe")
    link, other = folder / "compiled" / ENTRY.replace("step", "link"), folder / "compiled" / "notes.txt"
    kept.write_bytes(b"x")
    other.write_bytes(b"x")
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    jax.config.update("jax_compilation_cache_dir", None)
    keep_compiled_programs()
    assert sorted(folder.joinpath("compiled").iterdir()) == sorted([kept, other])


def test_a_damaged_entry_is_removed_when_jax_comes_across_it(folder, capsys):
    keep_compiled_programs()
    entry, other = (folder / "compiled" / name for name in (ENTRY, ENTRY.replace("step", "step_more")))
    for path in (entry, other):
        path.write_bytes(b"x")
    with warnings.catch_warnings(), mended_programs():
        warnings.warn(READING, UserWarning, stacklevel=1)
        assert not entry.exists() and other.exists()
        entry.write_bytes(b"x")
        with shown_on(Display(Level.DETAIL)):
            warnings.warn(READING, UserWarning, stacklevel=1)
        warnings.warn(
            "Error writing persistent compilation cache entry for 'jit_step': OSError: no\nspace",
            stacklevel=1,
        )
    assert capsys.readouterr().err == (
        f"a compiled program was damaged and is made again: {ENTRY}\n"
        "warning: a compiled program is not kept: 'jit_step': OSError: no space\n"
    )


def test_other_warnings_stay_what_they_are(folder):
    with pytest.warns(UserWarning, match="^something else"), mended_programs():
        warnings.warn("something else", UserWarning, stacklevel=1)


PROGRAM = """
    import jax
    from ti_flax.training.compiled_programs import keep_compiled_programs, mended_programs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    keep_compiled_programs()
    with mended_programs():
        print(jax.jit(lambda x: x * 2 + 1)(3.0))
"""


@pytest.mark.parametrize(
    "damage", [lambda content: content[: len(content) // 2], lambda content: bytes(len(content))]
)
def test_the_run_that_finds_a_damaged_entry_mends_it(tmp_path, damage):
    """With JAX itself: a program compiled twice, of which the kept one is damaged in between."""

    def run():
        env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
        env |= {"TI_FLAX_CACHE": str(tmp_path), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
        command = [sys.executable, "-c", textwrap.dedent(PROGRAM)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert done.stdout == "7.0\n" and "persistent" not in done.stderr
        return {path.name: path for path in (tmp_path / "compiled").iterdir()}

    entries = run()
    assert entries
    good = {}
    for name, path in entries.items():
        good[name] = len(path.read_bytes())
        path.write_bytes(damage(path.read_bytes()))
    again = run()
    assert again.keys() == entries.keys()
    for name, path in again.items():
        content = path.read_bytes()
        assert any(content) and len(content) > good[name] // 2 + 1
