"""The cache folder: where it is, and that nobody else's files are taken from it."""

import grp
import os
import pwd
import stat

import pytest

from ti_flax.config.options import ImageOptions
from ti_flax.data.training_images import latents_folder
from ti_flax.files import cache
from ti_flax.files.cache import default_cache_dir, is_private, private_folder, why_not_default


def test_default_cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TI_FLAX_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_dir() == tmp_path / ".cache" / "ti_flax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "ti_flax"
    monkeypatch.setenv("TI_FLAX_CACHE", "~/latents")
    assert default_cache_dir() == tmp_path / "latents"


def test_a_user_without_a_home_has_a_folder(tmp_path, monkeypatch):
    def unknown(number):
        raise KeyError(number)

    for name in ("HOME", "TI_FLAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    assert default_cache_dir() == tmp_path / f"ti_flax-{os.geteuid()}"
    monkeypatch.setenv("TI_FLAX_CACHE", "~/here")
    assert why_not_default() == "" and mode(default_cache_dir()) == 0o700


def mode(folder):
    return stat.S_IMODE(folder.stat().st_mode)


@pytest.fixture
def shared_group(monkeypatch):
    """A group that others may be in, as on machines where all users have the same."""
    monkeypatch.setattr(cache, "_is_group_of_one", lambda number: False)


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022])
def test_a_folder_that_is_made_is_for_this_user_alone(tmp_path, umask, shared_group):
    before = os.umask(umask)
    try:
        assert private_folder(tmp_path / "new" / "cache") == ""
    finally:
        os.umask(before)
    assert mode(tmp_path / "new" / "cache") == 0o700
    assert private_folder(tmp_path / "new" / "cache") == ""


def test_a_group_is_shut_out_of_a_folder_of_our_own_making(tmp_path, shared_group):
    tmp_path.chmod(0o775)
    assert private_folder(tmp_path) == "" and mode(tmp_path) == 0o700


def test_a_folder_that_a_person_chose_keeps_its_mode(tmp_path, shared_group):
    tmp_path.chmod(0o775)
    said = f"other users can write to {tmp_path}; `chmod 700 {tmp_path}` shuts them out"
    assert private_folder(tmp_path, ours=False) == said and mode(tmp_path) == 0o775


def test_a_group_of_one_is_nobody_else(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_is_group_of_one", lambda number: True)
    tmp_path.chmod(0o775)
    assert private_folder(tmp_path, ours=False) == "" and mode(tmp_path) == 0o775


@pytest.mark.parametrize("bits", [0o777, 0o757, 0o1777])
@pytest.mark.parametrize("ours", [True, False])
def test_a_folder_that_everybody_can_write_to_is_not_trusted(tmp_path, bits, ours):
    tmp_path.chmod(bits)
    assert private_folder(tmp_path, ours=ours).startswith("other users can write to ")
    assert mode(tmp_path) == bits


def test_a_folder_of_another_user_is_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_user", lambda: 4243)
    if os.geteuid() == 0:  # whose files are everybody's to trust
        os.chown(tmp_path, 4242, -1)
    assert private_folder(tmp_path) == f"{tmp_path} belongs to another user: choose a folder of your own"


def test_what_cannot_be_a_folder_is_said(tmp_path):
    (tmp_path / "file").touch()
    assert private_folder(tmp_path / "file") == f"{tmp_path}/file cannot be used (file exists)"
    assert "cannot be used" in private_folder(tmp_path / "file" / "cache")


def test_which_files_are_private(tmp_path, shared_group):
    plain = tmp_path / "plain"
    plain.touch()
    for bits, private in ((0o600, True), (0o644, True), (0o664, False), (0o666, False)):
        plain.chmod(bits)
        tmp_path.chmod(0o755)
        assert is_private(plain) is private
        tmp_path.chmod(0o700)  # which nobody else comes into
        assert is_private(plain)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(plain)
    assert not any(is_private(tmp_path / name) for name in ("pipe", "link", "nothing"))


def test_a_users_private_group_is_known():
    """A group of the user's name, in which is nobody else."""
    user = pwd.getpwuid(os.geteuid())
    own = grp.getgrgid(user.pw_gid)
    alone = own.gr_name == user.pw_name and set(own.gr_mem) <= {user.pw_name}
    assert cache._is_group_of_one(user.pw_gid) is alone
    assert not cache._is_group_of_one(2**31 - 2)


def test_the_default_folder_and_what_is_in_it_are_both_looked_at(tmp_path, monkeypatch):
    monkeypatch.setenv("TI_FLAX_CACHE", str(tmp_path / "cache"))
    assert why_not_default("compiled") == "" and mode(tmp_path / "cache" / "compiled") == 0o700
    (tmp_path / "cache" / "compiled").chmod(0o777)
    assert why_not_default() == "" and "cache/compiled;" in why_not_default("compiled")
    (tmp_path / "cache").chmod(0o777)
    assert f"{tmp_path}/cache;" in why_not_default("compiled")


def images(**changes):
    options = {"train_data_dir": ("x",), "latents_cache_dir": None} | changes
    return ImageOptions(**options)


def test_encoded_images_are_kept_where_nobody_else_writes(tmp_path, monkeypatch, shared_group):
    monkeypatch.setenv("TI_FLAX_CACHE", str(tmp_path / "cache"))
    assert latents_folder(images()) == (tmp_path / "cache", "")
    (tmp_path / "cache").chmod(0o777)
    folder, warning = latents_folder(images())
    assert folder is None
    assert warning.startswith(
        f"encoded images are neither read nor kept: other users can write to {tmp_path}/"
    )


def test_a_teams_folder_is_used_with_a_warning(tmp_path, shared_group):
    tmp_path.chmod(0o775)
    folder, warning = latents_folder(images(latents_cache_dir=str(tmp_path)))
    assert folder == tmp_path and mode(tmp_path) == 0o775
    assert warning == (
        f"latents_cache_dir decides what is learned, and other users can write to {tmp_path}; "
        f"`chmod 700 {tmp_path}` shuts them out"
    )
    folder, warning = latents_folder(images(latents_cache_dir=str(tmp_path / "new")))
    assert warning == "" and mode(tmp_path / "new") == 0o700
