"""Pages in a real browser: what is seen, what the pointer finds, and that nothing gets out."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Request, sync_playwright

from luthier.report.page import (
    ComparisonPage,
    differences,
    render_comparison,
    render_run,
    render_study,
)
from pages import facts, run_page, study_page

ATTACK = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"


def jpeg() -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (60, 40), (200, 30, 30)).save(written, "JPEG")
    return written.getvalue()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"there is no browser: none of {', '.join(names)} is in PATH")
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


class Opened:
    """A page that is shown, with all that it asks for and complains of."""

    def __init__(self, browser: Browser, path: Path, **how: Any) -> None:
        self.page: Page = browser.new_page(**how)
        self.asked: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.refused: list[str] = []
        self.page.on("requestfailed", self._fails)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.url = path.as_uri()
        self.page.goto(self.url)

    def _fails(self, request: Request) -> None:
        if request.failure == "csp":
            self.refused.append(request.url)

    @property
    def outside(self) -> list[str]:
        """What it asks for but itself."""
        return [url for url in self.asked if url != self.url and not url.startswith("data:")]

    def is_quiet(self) -> bool:
        return not self.outside and not self.said


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "page.html"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def a_run(browser: Browser, tmp_path: Path) -> Iterator[Opened]:
    text = render_run(run_page(jpeg=jpeg()))
    opened = Opened(browser, written(tmp_path, text), viewport={"width": 1200, "height": 900})
    yield opened
    opened.page.close()


def test_the_pointer_and_the_keys_find_the_values(a_run: Opened) -> None:
    page = a_run.page
    losses = page.locator("figure.chart").first
    drawing, tip = losses.locator("svg[tabindex]"), losses.locator(".tip")
    assert tip.is_hidden()
    drawing.scroll_into_view_if_needed()
    box = drawing.bounding_box()
    assert box is not None
    left, right = 48 / 400, 390 / 400  # of the plot within the drawing
    at = box["x"] + box["width"] * (left + (right - left) * 2.1 / 3)
    page.mouse.move(at, box["y"] + box["height"] / 2)
    assert tip.inner_text().split() == ["epoch", "2", "training", "0.500", "validation", "0.550"]
    shown = tip.bounding_box()
    assert shown is not None
    assert box["x"] <= shown["x"]
    assert shown["x"] + shown["width"] <= box["x"] + box["width"] + 1
    page.mouse.move(5, 5)
    assert tip.is_hidden()
    drawing.focus()
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    told = losses.locator("[role=status]")
    assert told.text_content() == "epoch 2: training 0.500, validation 0.550"
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    assert a_run.is_quiet()


def test_the_theme_is_the_systems_until_one_is_chosen(browser: Browser, tmp_path: Path) -> None:
    path = written(tmp_path, render_run(run_page()))
    for scheme, other in (("light", "dark"), ("dark", "light")):
        opened = Opened(browser, path, color_scheme=scheme)
        ground = "getComputedStyle(document.body).backgroundColor"
        first = opened.page.evaluate(ground)
        opened.page.get_by_text(other, exact=True).click()
        second = opened.page.evaluate(ground)
        opened.page.get_by_text("auto", exact=True).click()
        assert opened.page.evaluate(ground) == first
        lights = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}
        assert (first, second) == (lights[scheme], lights[other])
        assert opened.is_quiet()
        opened.page.close()


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_screen(browser: Browser, tmp_path: Path, width: int) -> None:
    long = "a_very_long_name_of_a_class_" * 4
    image = f"val/{'deep/' * 9}{'x' * 90}.jpg"
    classes = (long, *(f"class {number}" for number in range(11)))
    runs = tuple(facts(f"{long}{number}", epochs=2 + number) for number in range(5))
    found = differences({run.name: run.best for run in runs}, {})
    alone = run_page(classes, image, jpeg(), facts=facts(long, data=long, model=long))
    study = render_study(study_page(long))
    for text in (render_run(alone), render_comparison(ComparisonPage(runs, found)), study):
        path = written(tmp_path, text)
        opened = Opened(browser, path, viewport={"width": width, "height": 800})
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.is_quiet()
        opened.page.close()


def test_a_legend_shows_and_hides_its_run_in_every_chart(browser: Browser, tmp_path: Path) -> None:
    runs = (facts("first", better=0.1), facts("second"))
    best = {run.name: run.best for run in runs}
    path = written(tmp_path, render_comparison(ComparisonPage(runs, differences(best, {}))))
    opened = Opened(browser, path)
    page = opened.page
    lines = page.locator("g[data-name=second]")
    assert lines.count() == 2
    button = page.get_by_role("button", name="second").first
    button.click()
    assert [lines.nth(number).is_visible() for number in range(2)] == [False, False]
    assert button.get_attribute("aria-pressed") == "false"
    page.locator("figure.chart svg[tabindex]").first.focus()
    page.keyboard.press("End")
    assert page.locator(".tip").first.inner_text().split() == ["epoch", "3", "first", "85.00", "%"]
    page.get_by_role("button", name="second").nth(1).click()
    assert lines.nth(0).is_visible()
    assert opened.is_quiet()
    page.close()


def test_hostile_names_do_nothing(browser: Browser, tmp_path: Path) -> None:
    run = facts(ATTACK, model=ATTACK, data=ATTACK, weights=ATTACK, recipe={"a": {"b": ATTACK}})
    alone = run_page((ATTACK, "dog"), ATTACK, None, facts=run, notes=(ATTACK,), loaded=ATTACK)
    several = render_comparison(ComparisonPage((run, facts("b")), ()))
    for text in (render_run(alone), several, render_study(study_page(ATTACK))):
        opened = Opened(browser, written(tmp_path, text))
        opened.page.locator("figure.chart svg[tabindex]").first.focus()
        opened.page.keyboard.press("End")  # the tip shows names too
        assert opened.page.title() != "broken"
        assert opened.page.locator("img").count() == 0
        assert opened.is_quiet()
        opened.page.close()


def test_its_policy_stops_what_is_put_into_it(browser: Browser, tmp_path: Path) -> None:
    text = render_run(run_page()).replace("</main>", f"{ATTACK}</main>")
    opened = Opened(browser, written(tmp_path, text))
    assert opened.page.title() != "broken"
    assert opened.refused == opened.outside != []
    assert any("Content Security Policy" in said for said in opened.said)
    opened.page.close()


def test_it_can_be_read_without_javascript(browser: Browser, tmp_path: Path) -> None:
    path = written(tmp_path, render_run(run_page(jpeg=jpeg())))
    opened = Opened(browser, path, java_script_enabled=False)
    for heading in ("Curves", "Confusion", "Most certain mistakes", "Recipe"):
        assert opened.page.get_by_role("heading", name=heading).is_visible()
    opened.page.close()
