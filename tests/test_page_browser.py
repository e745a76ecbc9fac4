"""The page of a run and of two in a real browser: no message, no sideways scrolling, sorting, hovering, light, dark and paper."""

import base64
import re
import shutil

import pytest

from simfleet import load, simulate
from simfleet.page.compare import compare_page
from simfleet.report.summary import number
from tests.browser import Browser

SHORT = [("horizon", "8 min"), ("warmup", "30 s")]


@pytest.fixture(scope="module")
def quick():
    return simulate(load("quickstart", SHORT), seed=3)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = shutil.which("chromedriver")
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if driver is None or binary is None:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    try:
        found = Browser(driver, binary, tmp_path_factory.mktemp("profile"))
    except OSError as error:
        pytest.skip(f"chromium does not start here: {error}")
    yield found
    found.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory, quick):
    folder = tmp_path_factory.mktemp("pages")
    other = simulate(load("quickstart", SHORT, variant="owned"), seed=3)
    for name, text in (
        ("page", quick.html()),
        ("versus", compare_page(quick.summary, other.summary, ("rented", "owned"))),
    ):
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["page", "versus"])
@pytest.mark.parametrize("width", [1280, 400])
def test_no_console_message_and_no_sideways_scrolling(browser, files, name, width):
    browser.open(files / f"{name}.html", width)
    assert browser.messages() == []
    assert browser.run("return innerWidth") == width
    assert browser.run("scrollTo(500, 0); return scrollX") == 0
    outside = "[...document.querySelectorAll('svg text')].filter(t => { const b = t.getBoundingClientRect(); return b.left < 0 || b.right > innerWidth + 1; })"
    assert browser.run(f"return {outside}.map(t => t.textContent)") == []
    assert browser.run("return performance.getEntriesByType('resource').length") == 0
    shot = base64.b64decode(
        browser.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
    )
    (files / f"{name}-{width}.png").write_bytes(shot)
    assert len(shot) > 20_000


def test_text_and_figures_are_there(browser, files, quick):
    browser.open(files / "page.html")
    text = browser.run("return document.body.innerText")
    assert number(quick.summary["throughput"]["output_tok_s"]) in text
    assert "least_loaded" in text
    boxes = browser.run(
        "return [...document.querySelectorAll('figure svg')].map(s => [s.getBoundingClientRect().width, s.querySelectorAll('path, rect').length])"
    )
    assert len(boxes) == 4 + 4 + 2 + 1 + 1
    assert all(width > 300 and shapes > 0 for width, shapes in boxes)


def test_a_click_sorts_and_another_one_turns_it_round(browser, files, quick):
    browser.open(files / "page.html")
    cells = "[...document.querySelectorAll('#latency tbody tr')].map(r => r.cells[5].textContent)"
    click = "document.querySelectorAll('#latency th')[5].querySelector('button').click();"
    down = browser.run(f"{click} return {cells}")
    up = browser.run(f"{click} return {cells}")

    def seconds_of(text):
        value, unit = text.split()
        return float(value.replace(",", "")) * (1e-3 if unit == "ms" else 1)

    known = [seconds_of(text) for text in down if text != "n/a"]
    assert len(known) > 3
    assert known == sorted(known, reverse=True)
    assert [seconds_of(text) for text in up if text != "n/a"] == sorted(known)
    unknown = [text for text in down if text == "n/a"]
    assert down[len(known) :] == up[len(known) :] == unknown
    assert browser.run("return document.querySelectorAll('#latency th')[5].getAttribute('aria-sort')") == "ascending"


def test_hovering_shows_the_values(browser, files, quick):
    browser.open(files / "page.html")
    browser.run("document.querySelectorAll('#power figure.chart')[1].scrollIntoView({block: 'center'})")
    box = browser.run(
        "const b = document.querySelectorAll('#power figure.chart svg')[1].getBoundingClientRect(); return [b.left, b.top, b.width, b.height]"
    )
    browser.move(box[0] + box[2] / 2, box[1] + box[3] / 2)
    tip = browser.run(
        "const t = document.querySelectorAll('#power figure.chart')[1].querySelector('.hover'); return t.hidden ? '' : t.innerText"
    )
    rows = quick.run.records.timeline.array()
    watts = {number(float(f"{value:.4g}")) for value in rows["facility_w"][rows["pool"] == 0].tolist()}
    assert re.match(r"[\d.]+ s\n", tip)
    assert re.search(r"h100: ([\d,.]+) W", tip)[1] in watts
    assert "all: " in tip
    browser.move(1, 1)
    assert (
        browser.run("return document.querySelectorAll('#power figure.chart')[1].querySelector('.hover').hidden") is True
    )


def test_light_dark_and_paper(browser, files):
    look = "return [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('path.c0')).stroke]"
    browser.open(files / "page.html", scheme="light")
    light = browser.run(look)
    browser.open(files / "page.html", scheme="dark")
    dark = browser.run(look)
    assert light[0] == "rgb(255, 255, 255)"
    assert dark[0] != light[0]
    assert dark[1] != light[1]
    browser.devtools(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    assert browser.run(look) == light
    pdf = base64.b64decode(browser.devtools("Page.printToPDF", printBackground=True)["data"])
    assert pdf.startswith(b"%PDF")
    browser.devtools("Emulation.setEmulatedMedia", media="")
