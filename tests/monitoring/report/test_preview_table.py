"""The table of previews: which image is where, what is left out, and how buttons and links choose."""

import dataclasses
import io
import re

import numpy as np
import pytest
from PIL import Image
from report_pages import IMAGES, PROMPTS, Balanced, facts, pixels, previews, run_folder

from ti_flax.monitoring.report import preview_table
from ti_flax.monitoring.report.facts import RunFacts
from ti_flax.monitoring.report.images import Images
from ti_flax.monitoring.report.page import write_report
from ti_flax.monitoring.report.preview_table import (
    MOST_IMAGES,
    MOST_PROMPTS,
    Layout,
    View,
    chosen_steps,
    read_table,
    table_section,
    table_style,
    training_images,
)

HOSTILE = '<img src=x onerror="alert(1)">'


def table_of(folder, best=None, **options):
    given = facts(**options)
    layout = Layout.of(given)
    return layout and read_table(folder, layout, Images(), best)


def options(**changes):
    return {"config": facts().config | changes}


def shots(text):
    """Places and image of each figure, in the order of the page."""
    found = re.findall(
        r'<figure class="shot s(\d+) k(\d+)( large)?" id="shot-(\d+)-\d+-\d+" style="--s:(\d+);--k:(\d+)">'
        r'<a href="([^"]*)"><img src="([^"]*)" alt="([^"]*)"',
        text,
    )
    return [(int(p), int(k), int(s), link) for s, k, _, p, _, _, _, link, _ in found]


def test_a_prompt_is_a_row_a_step_is_a_column_and_a_line_has_one_noise(tmp_path):
    previews(tmp_path, (0, 50, 200))
    text = table_section(table_of(tmp_path))
    Balanced(text)
    found = shots(text)
    assert [place[:3] for place in found] == [
        (prompt, image, step) for prompt in range(PROMPTS) for image in range(IMAGES) for step in range(3)
    ]
    for prompt, image, step, link in found:
        assert (pixels(link) == [(0, 50, 200)[step], prompt, image]).all()
    assert re.findall(r"<h3>(.*?)</h3>", text) == ["a &lt;toy&gt; &amp; co", "a red &lt;toy&gt;"]
    assert 'alt="a red &lt;toy&gt;: step 200, image 3 of 3"' in text and "--n:3" in text
    assert re.findall(r'<label for="step(.*?)">(.*?)</label>', text) == [
        ("-all", "all steps"),
        ("0", "before"),
        ("1", "50"),
        ("2", "200"),
    ]


def test_the_best_step_is_shown_and_named(tmp_path):
    previews(tmp_path, range(0, 250, 10))
    table = table_of(tmp_path, best=130)
    assert len(table.steps) == 8 and 130 in table.steps
    text = table_section(table)
    assert text.count("best") == 2 and '130 <b class="best">best</b>' in text
    assert "best" not in table_section(table_of(tmp_path, best=135))


@pytest.mark.parametrize(
    ("steps", "best", "expected"),
    [
        ([0, 5], None, [0, 5]),
        ([0, 5], 5, [0, 5]),
        ([0, 5], 9, [0, 5]),
        (list(range(15)), None, [0, 2, 4, 6, 8, 10, 12, 14]),
        (list(range(15)), 7, [0, 2, 4, 7, 8, 10, 12, 14]),
        (list(range(15)), 13, [0, 2, 4, 6, 8, 10, 13, 14]),
        (list(range(15)), 1, [0, 1, 4, 6, 8, 10, 12, 14]),
        ([], 3, []),
    ],
)
def test_steps_are_spread_and_the_ends_stay(steps, best, expected):
    assert chosen_steps(steps, best) == expected


def test_prompts_of_a_file_are_rows_like_those_of_the_options(tmp_path):
    previews(tmp_path, (0, 50))
    expected = shots(table_section(table_of(tmp_path)))
    layout = Layout.of(facts(**options(validation_prompt=None), previews=["a {} & co", "a red {}"]))
    assert (
        layout is not None and shots(table_section(read_table(tmp_path, layout, Images(), None))) == expected
    )
    given = facts(previews=["one"], preview_size="64x32")
    given.write(tmp_path)
    assert Layout.of(RunFacts.read(tmp_path)) == Layout(("one",), 3, (32, 64))
    facts().write(tmp_path)
    assert '"preview' not in (tmp_path / "run.json").read_text()


def test_large_views_lead_along_a_line(tmp_path):
    previews(tmp_path, (0, 50, 200))
    text = table_section(table_of(tmp_path))
    figures = dict(re.findall(r'<figure [^>]*id="(shot-[\d-]+)"[^>]*>(.*?)</figure>', text))
    links = {
        name: re.findall(r'<a (?:class="close" )?href="(.*?)">', inside) for name, inside in figures.items()
    }
    assert links["shot-1-2-0"] == ["#shot-1-2-0", "#shot-1-2-1", "#prompt1"]
    assert links["shot-1-2-1"] == ["#shot-1-2-1", "#shot-1-2-0", "#shot-1-2-2", "#prompt1"]
    assert links["shot-0-0-2"] == ["#shot-0-0-2", "#shot-0-0-1", "#prompt0"]


@pytest.mark.parametrize(("images", "checked"), [(3, "image-all"), (4, "image-all"), (5, "image0")])
def test_of_many_images_one_of_each_prompt_is_shown_at_first(tmp_path, images, checked):
    previews(tmp_path, (0, 50), images=images)
    table = table_of(tmp_path, **options(num_validation_images=images))
    text = table_section(table)
    assert re.findall(r'id="([\w-]+)" checked', text) == ["step-all", checked]


def test_every_button_has_its_rules(tmp_path):
    previews(tmp_path, (0, 50, 200))
    table = table_of(tmp_path)
    text, style = table_section(table), table_style(table)
    buttons = re.findall(r'<input type="radio" name="(\w+)" id="([\w-]+)"', text)
    assert [name for name, _ in buttons] == ["step"] * 4 + ["image"] * 4
    for name, button in buttons:
        assert f'<label for="{button}">' in text
        assert f"#{button}:checked~.bar label[for={button}]" in style
        assert f"#{button}:focus-visible~.bar" in style
        hides = f"#{button}:checked~.table .shot:not(.{'s' if name == 'step' else 'k'}{button[-1]},"
        assert (hides in style) == (not button.endswith("-all"))


def test_one_step_or_one_image_needs_no_buttons(tmp_path):
    previews(tmp_path, (0,), images=1)
    table = table_of(tmp_path, **options(num_validation_images=1))
    text = table_section(table)
    assert "<input" not in text and "<label" not in text and len(shots(text)) == PROMPTS
    assert "image 1 of 1" not in text


def test_pixels_of_small_images_stay_and_large_ones_are_bounded(tmp_path, monkeypatch):
    previews(tmp_path, (0, 9), side=16)
    table = table_of(tmp_path)
    assert table.tiny and all(
        link.startswith("data:image/png") for links in table.shots.values() for link in links
    )
    monkeypatch.setattr(preview_table, "_MOST_PIXELS", PROMPTS * IMAGES * 2 * 40**2)
    previews(tmp_path, (0, 9), side=200)
    table = table_of(tmp_path)
    shown = [link for links in table.shots.values() for link in links]
    assert not table.tiny and {pixels(link).shape for link in shown} == {(40, 40, 3)}


def test_a_page_of_large_images_is_of_a_bounded_size(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "validation").mkdir()
    noise = rng.integers(0, 256, (128, 192, 3), dtype=np.uint8)
    large = Image.fromarray(noise).resize((3 * 1024, 2 * 1024), Image.Resampling.BICUBIC)
    content = io.BytesIO()
    large.save(content, "PNG", compress_level=1)
    for step in range(4):
        (tmp_path / "validation" / f"step-{step}.png").write_bytes(content.getvalue())
    shown = [link for links in table_of(tmp_path).shots.values() for link in links]
    assert {pixels(link).shape for link in shown} == {(768, 768, 3)}
    assert sum(map(len, shown)) < 12 * 2**20


def test_what_is_left_out_is_said(tmp_path):
    prompts = [f"prompt {number} of {{}}" for number in range(MOST_PROMPTS + 2)]
    previews(tmp_path, range(9), prompts=len(prompts), images=MOST_IMAGES + 4, side=2)
    table = table_of(tmp_path, **options(validation_prompt=prompts, num_validation_images=MOST_IMAGES + 4))
    assert len(table.prompts) == MOST_PROMPTS and table.images == 4 and len(table.steps) == 8
    text = table_section(table)
    assert "2 more prompts and 12 more images of each prompt are in the files" in text
    assert len(shots(text)) == MOST_PROMPTS * 4 * 8 <= 800
    for prompt, image, step, link in shots(text)[:: 4 * 8 + 3]:
        assert (pixels(link) == [table.steps[step], prompt, image]).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"validation_prompt": None},
        {"validation_prompt": []},
        {"validation_prompt": [1, "a"]},
        {"validation_prompt": True},
        {"num_validation_images": 0},
        {"num_validation_images": None},
        {"num_validation_images": True},
    ],
)
def test_options_that_say_no_layout(changes):
    assert Layout.of(facts(**options(**changes))) is None


def test_previews_of_another_layout_are_passed_over(tmp_path):
    previews(tmp_path, (0, 5))
    previews(tmp_path, (9,), images=IMAGES + 1)
    assert table_of(tmp_path).steps == [0, 5]
    assert table_of(tmp_path, **options(num_validation_images=2)) is None
    one = table_of(tmp_path, **options(validation_prompt="a {}", num_validation_images=3))
    assert one is None


def test_without_a_layout_the_files_are_shown_as_they_are(tmp_path):
    run_folder(tmp_path, finished=True, **options(validation_prompt=None))
    text = write_report(tmp_path).read_text()
    assert "shot" not in text.partition("</style>")[2]
    assert re.findall(r"<figure><figcaption>(.*?)</figcaption><img", text)[:2] == ["before", "step 20"]


def test_the_training_images_come_from_the_contact_sheet(tmp_path):
    run_folder(tmp_path)
    given, images = facts(), Images()
    text = training_images(tmp_path, Layout.of(given), given, images)
    links = re.findall(r'src="([^"]*)"', text)
    assert len(links) == 5 and all((pixels(link) == 77).all() for link in links)
    Image.new("RGB", (30, 30)).save(tmp_path / "contact_sheet.png")
    assert training_images(tmp_path, Layout.of(given), given, images) == ""


def test_a_prompt_cannot_become_markup(tmp_path):
    previews(tmp_path, (0, 5))
    text = table_section(table_of(tmp_path, token=HOSTILE, **options(validation_prompt=[HOSTILE, "{}"])))
    page = Balanced(text)
    assert page.tags.count("img") == PROMPTS * IMAGES * 2 and "<img src=x" not in text


def test_an_image_is_decoded_once_as_long_as_its_file_stays(tmp_path, monkeypatch):
    previews(tmp_path, (0, 5))
    images, layout = Images(), Layout.of(facts())
    first = read_table(tmp_path, layout, images, None)
    monkeypatch.setattr("ti_flax.monitoring.report.images._opened", lambda content: 1 / 0)
    assert read_table(tmp_path, layout, images, None) == first
    images.forget_unused()
    assert read_table(tmp_path, layout, images, None) == first
    images.forget_unused()
    images.forget_unused()
    assert read_table(tmp_path, layout, images, None) is None


def test_the_view_of_a_page_is_in_its_address():
    view = View.of("step=50&image=0&large=1-2-50&paused=&other=%00")
    assert view == View(50, 0, (1, 2, 50), True) and view.is_chosen
    assert View.of(view.link()[1:].replace("&amp;", "&")) == view
    assert View.of("") == View() and not View().is_chosen and View().link() == "?"
    assert View(paused=True).link() == "?paused="


@pytest.mark.parametrize(
    "query", ["step=-1", "step=x", "image=1.5", "large=1-2", "large=a-b-c", f"step={'9' * 99}", "="]
)
def test_an_address_of_something_else_chooses_nothing(query):
    assert View.of(query) == View()


def test_links_choose_in_a_page_that_is_loaded_again(tmp_path):
    previews(tmp_path, (0, 50, 200))
    table = table_of(tmp_path)
    text = table_section(table, View(step=50, image=2, large=(1, 0, 200)))
    page = Balanced(text)
    assert not [link for link in page.links if "#" in link]
    assert re.findall(r'id="([\w-]+)" checked', text) == ["step1", "image1"]
    assert re.findall(r'class="shot s(\d) k(\d) large" id="shot-(\d)', text) == [("2", "0", "1")]
    assert '<label for="step2"><a href="?step=200&amp;image=2">200</a></label>' in text
    assert '<label for="step-all"><a href="?image=2">all steps</a></label>' in text
    assert '<label for="image-all"><a href="?step=50&amp;image=0">all</a></label>' in text
    assert 'class="close" href="?step=50&amp;image=2"' in text
    assert '<a href="?step=50&amp;image=2&amp;large=1-0-50">‹ step 50</a>' in text
    nowhere = table_section(table, View(step=77, image=99, large=(9, 9, 9)))
    assert " large" not in nowhere
    assert re.findall(r'id="([\w-]+)" checked', nowhere) == ["step-all", "image-all"]
    assert dataclasses.replace(View(), step=1).is_chosen


def test_images_of_another_shape_are_cut_out_whole(tmp_path):
    (tmp_path / "validation").mkdir()
    grid = np.zeros((2 * 24, 3 * 16, 3), np.uint8)
    grid[24:, 16:32] = 200
    Image.fromarray(grid).save(tmp_path / "validation" / "step-0.png")
    assert table_of(tmp_path) is None  # no squares
    found = table_of(tmp_path, **options(validation_size="16x24"))
    assert [pixels(link).shape for link in found.shots[0]] == [(24, 16, 3)] * 6
    assert [bool(pixels(link).all()) for link in found.shots[0]] == [False] * 4 + [True, False]
    assert Layout.of(facts(**options(validation_size="16x"))) is None
