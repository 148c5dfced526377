"""Links to images, from a server on this machine: limits, refusals, and that nothing is asked twice."""

import time

import numpy as np
import pytest
from link_site import fetch, png
from PIL import Image

from ti_flax.data.images.load import load_images
from ti_flax.data.sources.links import Limits, kept_file, link_name
from ti_flax.errors import DataError


def test_a_link_is_a_source_and_is_asked_for_once(site, tmp_path):
    link = f"{site.url}/ok.png"
    for _ in range(2):
        loaded = load_images(link, resolution=8, allow_private_links=True)
        assert (loaded.names, loaded.paths) == (("ok.png",), (None,))
        np.testing.assert_array_equal(loaded.pixels[0, 0, 0], (7, 0, 0))
    assert site.asked == ["/ok.png"]
    assert kept_file(link).read_bytes() == png(7)
    assert [path.name for path in (tmp_path / "cache" / "links").iterdir()] == [kept_file(link).name]


def test_links_in_a_list(site, tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text(
        f"{site.url}/ok?a=1\na.png\n{site.url}/ok/caf\u00e9 1.png#x\n", encoding="utf-8"
    )
    loaded = load_images(tmp_path / "list.txt", resolution=8, allow_private_links=True)
    assert loaded.names == ("ok", "a.png", "caf\u00e9 1.png")
    assert site.asked == ["/ok?a=1", "/ok/caf%C3%A9%201.png"]
    assert capsys.readouterr().err == "downloading 2 images\n"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "page",
            "expected an image, found an HTML page (image/png, 63 bytes). Give the link",
        ),
        ("text", "found something that cannot be decoded as one (text/plain, 8 bytes)"),
        ("empty", "found nothing (image/png, 0 bytes)"),
        ("broken", "found something that cannot be decoded as one (image/png,"),
        ("cut", "expected a whole image, found only 40 of its"),
        ("none", "expected an image, found HTTP status 404. Download it by hand"),
        ("large", "expected an image of at most 4 KiB, found 5 KiB. Scale it down"),
        ("endless", "expected an image of at most 4 KiB, found more"),
        ("slow", "expected an image, found silence for 0.2 s"),
        ("dribble", "expected an image within 0.4 s, found"),
        ("loop", "expected at most 2 redirects, found more. Download it by hand"),
        ("hop/3", "expected at most 2 redirects, found more"),
    ],
)
def test_what_is_no_image_within_the_limits(site, path, words):
    link = f"{site.url}/{path}"
    began = time.monotonic()
    with pytest.raises(DataError) as caught:
        # Only what never ends by itself meets the limit of the whole, which a busy machine reaches soon.
        whole = 0.4 if path == "dribble" else 30
        fetch(link, limits=Limits(content_bytes=4000, silence=0.2, whole=whole, redirects=2))
    assert str(caught.value).startswith(f"{link}: ") and words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 2
    assert not kept_file(link).exists()


def test_a_redirect_to_a_file_is_refused(site):
    link = f"{site.url}/away"
    with pytest.raises(DataError) as caught:
        fetch(link)
    assert str(caught.value) == (
        f"{link}: expected a link with http or https, found a redirect to another kind of link. "
        "A file is named by its path, a dataset of the Hub by owner/name."
    )


def test_a_few_redirects_are_followed(site):
    link = f"{site.url}/hop/1"
    assert fetch(link) == str(kept_file(link))


def test_no_server(site):
    site.shutdown()
    site.server_close()
    link = f"{site.url}/ok.png"
    with pytest.raises(
        DataError, match=r"found no connection \(.*refused.*\). Check the network and the link"
    ):
        fetch(link)


def test_a_image_that_cannot_be_kept_is_used_all_the_same(site, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TI_FLAX_CACHE", str(tmp_path / "file"))
    link = f"{site.url}/ok.png"
    assert fetch(link) == png(7)
    assert "Linked images are not kept" in caplog.text


@pytest.mark.parametrize(
    ("link", "name"),
    [("http://a.b/c/d.png?x=/y", "d.png"), ("http://a.b/c%20d.png", "c d.png"), ("http://a.b:80/", "a.b:80")],
)
def test_names(link, name):
    assert link_name(link) == name
