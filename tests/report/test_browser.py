"""The page in a real browser: no error, nothing loaded, sorting, filtering, opening rows."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from distance_runs import distance_run
from report_runs import make_header, make_pictures, make_record

from closegap.core.verdict import Verdict
from closegap.report import render, render_distances
from closegap.store.records import Record, RunHeader

if os.environ.get("CLOSEGAP_REQUIRE_BROWSER") != "1":
    pytest.importorskip("selenium")
from selenium import webdriver  # after the skip
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

V, F, U = Verdict.VERIFIED, Verdict.FALSIFIED, Verdict.UNKNOWN

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)


def _program(*names: str) -> str:
    for name in names:
        if found := shutil.which(name):
            return found
    text = f"none of {', '.join(names)} is installed"
    if os.environ.get("CLOSEGAP_REQUIRE_BROWSER") == "1":
        pytest.fail(text)
    pytest.skip(text)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    """Chromium without a window; its own profile, its own driver, no download."""
    options = webdriver.ChromeOptions()
    options.binary_location = _program("chromium", "chromium-browser", "google-chrome")
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(_program("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


Open = Callable[[str], WebDriver]


@pytest.fixture
def open_page(browser: WebDriver, tmp_path: Path) -> Iterator[Open]:
    """Open a page; whatever the test does to it, the console must stay empty."""
    browser.get_log("browser")

    def show(text: str) -> WebDriver:
        place = tmp_path / "report.html"
        place.write_text(text, encoding="utf-8")
        browser.get(place.as_uri())
        return browser

    yield show
    assert browser.get_log("browser") == []


def _rows(browser: WebDriver) -> list[WebElement]:
    """Rows that are shown, details left out."""
    return browser.find_elements(By.CSS_SELECTOR, "#table tbody tr[data-row]:not([hidden])")


def _column(browser: WebDriver, name: str) -> list[str]:
    script = """
      const heads = [...document.querySelectorAll('#table thead th')];
      const at = heads.findIndex((head) => head.textContent === arguments[0]);
      return [...document.querySelectorAll('#table tbody tr[data-row]:not([hidden])')]
        .map((row) => row.cells[at].dataset.v ?? row.cells[at].textContent);
    """
    return [str(value) for value in browser.execute_script(script, name)]


def _head(browser: WebDriver, name: str) -> WebElement:
    return browser.find_element(By.XPATH, f"//table[@id='table']/thead//button[.='{name}']/..")


def _sort(browser: WebDriver, name: str) -> str | None:
    head = _head(browser, name)
    head.find_element(By.TAG_NAME, "button").click()
    return head.get_attribute("aria-sort")


def test_loads_without_a_complaint_or_a_request(
    open_page: Open, digits_run: tuple[RunHeader, tuple[Record, ...]]
) -> None:
    browser = open_page(render(*digits_run))
    assert "Robust accuracy" in browser.find_element(By.TAG_NAME, "h1").text
    assert len(_rows(browser)) == 60
    sources = "return performance.getEntriesByType('resource').map((e) => e.name)"
    assert [s for s in browser.execute_script(sources) if not s.startswith("data:")] == []
    browser.execute_script("document.querySelector('.panels').scrollIntoView()")
    script = "return [...document.querySelectorAll('.panels img')].slice(0, 3)"
    sizes = ".map((i) => [i.complete, i.naturalWidth, getComputedStyle(i).imageRendering])"
    deadline = time.monotonic() + 5
    wanted = [[True, 8, "pixelated"]] * 3
    while browser.execute_script(script + sizes) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    assert browser.execute_script(script + sizes) == wanted


def test_the_policy_stops_foreign_scripts(browser: WebDriver, tmp_path: Path) -> None:
    """The one test that wants a complaint: the policy is in force, not only written down."""
    text = render(make_header(total=1), [make_record(0)])
    place = tmp_path / "report.html"
    place.write_text(text.replace("</main>", "</main><script>window.evil = 1</script>"))
    browser.get(place.as_uri())
    assert browser.execute_script("return window.evil === undefined")
    assert any(
        "Content Security Policy" in entry["message"] for entry in browser.get_log("browser")
    )


def test_sorting_is_numeric_and_puts_nothing_last(open_page: Open) -> None:
    cells = [
        (2.0, 9, "y10"),
        (-float("inf"), 10, "y9"),
        (10.0, None, ""),
        (-3.5, 2, "y1"),
        (float("nan"), 1, "y2"),
        (float("inf"), 0, "y3"),
    ]
    records = [
        make_record(i, V, lower=lower, label=label, target=target)
        for i, (lower, label, target) in enumerate(cells)
    ]
    browser = open_page(render(make_header(total=6), records))
    assert _head(browser, "index").get_attribute("aria-sort") == "ascending"

    assert _sort(browser, "lower") == "ascending"
    assert _head(browser, "index").get_attribute("aria-sort") == "none"
    assert _column(browser, "index") == ["1", "3", "0", "2", "5", "4"]
    assert _sort(browser, "lower") == "descending"
    assert _column(browser, "index") == ["5", "2", "0", "3", "1", "4"]

    _sort(browser, "label")
    assert _column(browser, "label") == ["0", "1", "2", "9", "10", ""]
    _sort(browser, "target")
    assert _column(browser, "target") == ["y1", "y2", "y3", "y9", "y10", ""]


def test_sorting_from_the_keyboard(open_page: Open) -> None:
    records = [make_record(i, V, seconds=float(s)) for i, s in enumerate([30, 4, 200])]
    browser = open_page(render(make_header(total=3), records))
    _head(browser, "seconds").find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert _column(browser, "index") == ["1", "0", "2"]


def test_filters_by_text_and_verdict(open_page: Open) -> None:
    records = [
        make_record(0, V, engine="crown"),
        make_record(1, F, engine="pgd"),
        make_record(2, U, engine="mip"),
        make_record(3, V, engine="mip"),
    ]
    browser = open_page(render(make_header(total=4), records))
    shown = browser.find_element(By.ID, "shown")
    search = browser.find_element(By.ID, "filter")
    verified = browser.find_element(By.CSS_SELECTOR, ".chips [data-verdict=verified]")
    search.send_keys("MIP")
    assert _column(browser, "index") == ["2", "3"]
    assert shown.text == "2 of 4 images"
    verified.click()
    assert _column(browser, "index") == ["3"]
    assert verified.get_attribute("aria-pressed") == "true"
    search.send_keys(" crown")
    assert _column(browser, "index") == []
    assert browser.find_element(By.ID, "none").is_displayed()
    search.send_keys(Keys.CONTROL, "a", Keys.BACKSPACE)
    assert _column(browser, "index") == ["0", "3"]
    browser.find_element(By.CSS_SELECTOR, ".chips [data-verdict='']").send_keys(Keys.SPACE)
    assert _column(browser, "index") == ["0", "1", "2", "3"]
    assert shown.text == "4 images"


def test_rows_open_to_their_history_and_witness(
    open_page: Open, digits_run: tuple[RunHeader, tuple[Record, ...]]
) -> None:
    header, records = digits_run
    place = next(i for i, r in enumerate(records) if r.verdict is F and r.engine != "clean")
    browser = open_page(render(header, records))
    button = browser.find_element(By.CSS_SELECTOR, f"tr[data-row='{place}'] .open")
    button.send_keys(Keys.ENTER)
    assert button.get_attribute("aria-expanded") == "true"
    detail = browser.find_element(By.ID, button.get_attribute("aria-controls") or "")
    assert records[place].history[-1].engine in detail.text
    assert "−∞" in detail.text
    assert len(detail.find_elements(By.TAG_NAME, "img")) == 3
    _sort(browser, "index")  # to descending: the details go with their row
    follows = "return arguments[0].closest('tr').nextElementSibling === arguments[1]"
    assert browser.execute_script(follows, button, detail)
    button.click()
    assert button.get_attribute("aria-expanded") == "false"
    assert browser.find_elements(By.CSS_SELECTOR, "tr.detail") == []


def test_names_are_never_read_as_html(open_page: Open) -> None:
    name = "<img src=x onerror='document.title=1'>"
    record = make_record(0, U, name=name, detail=name, target=name, engine_seconds={name: 1.0})
    browser = open_page(render(make_header(total=1), [record]))
    browser.find_element(By.CSS_SELECTOR, ".open").click()
    assert name in browser.find_element(By.CSS_SELECTOR, "tr.detail").text
    assert browser.find_elements(By.CSS_SELECTOR, "main img") == []


def test_the_gallery_opens_step_by_step(open_page: Open, rng: np.random.Generator) -> None:
    records = [make_record(i, F, pictures=make_pictures((1, 8, 8), rng)) for i in range(27)]
    browser = open_page(render(make_header(total=27), records))
    cards = browser.find_elements(By.CSS_SELECTOR, ".gallery > .card")
    more = browser.find_element(By.ID, "more")
    seen = []
    for _ in range(3):
        seen.append((sum(card.is_displayed() for card in cards), more.text))
        browser.execute_script("arguments[0].click()", more)
    assert seen == [(12, "Show 12 more, 15 left"), (24, "Show the last 3"), (27, "")]


@pytest.mark.parametrize("width", [360, 820, 1440])
def test_no_width_scrolls_sideways(
    width: int, open_page: Open, digits_run: tuple[RunHeader, tuple[Record, ...]]
) -> None:
    _fits(open_page(render(*digits_run)), width)


def _fits(browser: WebDriver, width: int) -> None:
    """The page is no wider than a window of this width."""
    command = browser.execute_cdp_cmd
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    command("Emulation.setDeviceMetricsOverride", size)
    try:
        root = "document.documentElement"
        assert browser.execute_script("return innerWidth") == width
        assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    finally:
        command("Emulation.clearDeviceMetricsOverride", {})


def test_distances_stand_side_by_side_and_sort(open_page: Open) -> None:
    browser = open_page(render_distances(*distance_run(14)))
    rows = browser.find_elements(By.CSS_SELECTOR, ".card:first-child .nearest")
    tops = [[cell.rect["y"] for cell in row.find_elements(By.XPATH, "./*")] for row in rows]
    assert len(tops) == 3 and all(len(row) == 5 and max(row) - min(row) < 1 for row in tops)
    spark = rows[0].find_element(By.CSS_SELECTOR, ".spark")
    assert spark.rect["width"] > 100 and "bracket went" in (spark.get_attribute("aria-label") or "")
    assert browser.find_element(By.ID, "more").text == "Show the last 3"
    browser.find_element(By.CSS_SELECTOR, ".chips [data-verdict=open]").click()
    assert len(_rows(browser)) == 22
    _sort(browser, "upper")
    uppers = [float(value) for value in _column(browser, "upper")]
    assert uppers == sorted(uppers) and uppers[-1] == float("inf")
    browser.find_element(By.CSS_SELECTOR, "#table .open").click()
    assert "programs" in browser.find_element(By.CSS_SELECTOR, "tr.detail").text


@pytest.mark.parametrize("width", [360, 820, 1440])
def test_no_width_scrolls_distances_sideways(width: int, open_page: Open) -> None:
    _fits(open_page(render_distances(*distance_run())), width)


def test_thousands_of_rows_stay_fast(open_page: Open) -> None:
    many = 2000
    records = [make_record(i, [V, F, U][i % 3], lower=float(i * 1117 % many)) for i in range(many)]
    browser = open_page(render(make_header(total=many), records))
    script = """
      const start = performance.now();
      arguments[0].click();
      document.getElementById('table').offsetHeight;
      return performance.now() - start;
    """
    button = _head(browser, "lower").find_element(By.TAG_NAME, "button")
    took = browser.execute_script(script, button)
    first = pow(1117, -1, many)
    assert _column(browser, "index")[:2] == ["0", str(first)]
    assert took < 1500  # milliseconds; about 100 on two busy cores
    assert len(_rows(browser)) == 200
    _scroll_to(many, browser)
    lowers = [float(value) for value in _column(browser, "lower")]
    assert lowers == [float(i) for i in range(many)]


def _scroll_to(many: int, browser: WebDriver) -> None:
    """Scroll the table until so many rows are there."""
    box = browser.find_element(By.CSS_SELECTOR, ".scroll.table")
    scroll = "arguments[0].scrollTop = arguments[0].scrollHeight"
    count = "return document.querySelectorAll('#table tr[data-row]').length"
    deadline = time.monotonic() + 10
    while browser.execute_script(count) < many and time.monotonic() < deadline:
        browser.execute_script(scroll, box)
        time.sleep(0.02)
