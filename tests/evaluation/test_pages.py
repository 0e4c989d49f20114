"""The pages in a real browser: nothing on the console, and every control does what it says."""

import base64
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from restorectl.evaluation import report
from restorectl.evaluation.study import results, study
from tests.pages import METHODS, NAMES, comparison, images

pytestmark = pytest.mark.slow

WAIT = 20.0  # seconds until something that should happen has not


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium that saves downloads to `browser.downloads`."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in (
        "--headless=new",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1300,900",
    ):
        options.add_argument(word)
    if getattr(os, "geteuid", lambda: 1)() == 0:
        options.add_argument("--no-sandbox")  # which root cannot have
    downloads = tmp_path_factory.mktemp("downloads")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    found.downloads = downloads
    yield found
    found.quit()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    images(folder)
    return folder


def one(browser, selector):
    return browser.find_element("css selector", selector)


def every(browser, selector):
    return browser.find_elements("css selector", selector)


def wait(browser, condition):
    """Until `condition()` holds: a page that was just loaded runs its script a little later."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, WAIT, 0.05).until(lambda _: condition())


def settle(browser):
    """Until the page that was just opened or loaded again has run its script."""
    wait(browser, lambda: browser.execute_script("return document.readyState") == "complete")


def press(browser, *keys):
    browser.switch_to.active_element.send_keys(*keys)


def choose(browser, name, value):
    one(browser, f"label:has(input[name={name}][value={value}])").click()


def quiet(browser):
    """No message on the console, of any level, and nothing loaded but the page."""
    assert browser.get_log("browser") == []
    loaded = "return performance.getEntriesByType('resource').map((e) => e.name)"
    assert [name for name in browser.execute_script(loaded) if not name.startswith("data:")] == []


def downloaded(browser, known) -> Path:
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        new = set(browser.downloads.glob("*.json")) - known
        if new:
            return new.pop()
        time.sleep(0.05)
    raise AssertionError("nothing was downloaded")


def test_the_report_opens_without_a_word_on_the_console(browser, root, tmp_path):
    report.write(str(tmp_path / "r.html"), comparison(root))
    browser.get((tmp_path / "r.html").as_uri())
    settle(browser)
    quiet(browser)
    assert one(browser, "h1").text == f"Evaluation of {METHODS[0]} and {METHODS[1]}"
    broken = "return [...document.images].filter((i) => !i.naturalWidth && i.alt).length"
    assert browser.execute_script(broken) == 0
    assert len(every(browser, ".example")) == 3
    wide = "return document.documentElement.scrollWidth - innerWidth"
    assert browser.execute_script(wide) <= 0
    for picture in every(browser, ".chart svg"):
        assert picture.size["height"] > 50


@pytest.mark.parametrize("width", [1280, 400])
def test_the_first_column_stays_in_sight(browser, root, tmp_path, width):
    long = ("restored with a sampler of 10 steps", "restored with a sampler of 34 steps, and more")
    report.write(str(tmp_path / "r.html"), comparison(root, methods=long))
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        browser.get((tmp_path / "r.html").as_uri())
        settle(browser)
        places = browser.execute_script(
            "const box = document.querySelector('.scroll'); box.scrollLeft = 99999;"
            "const left = (each) => each.getBoundingClientRect().left;"
            "return [box.scrollLeft, left(box.querySelector('tbody th')) - left(box),"
            " document.documentElement.scrollWidth - innerWidth]"
        )
        assert (places[0] > 0) == (width == 400)
        assert places[1] == 0
        assert places[2] <= 0
        names = [each.text for each in every(browser, ".chart svg .label.end")]
        assert all(name.startswith("restored with a") for name in names[:2])
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_picture_opens_large_and_the_arrows_flip_through_its_row(browser, root, tmp_path):
    report.write(str(tmp_path / "r.html"), comparison(root))
    browser.get((tmp_path / "r.html").as_uri())
    settle(browser)
    every(browser, ".zoom")[1].click()
    told = one(browser, "dialog span")
    assert told.text.startswith(f"2 of 4: {METHODS[0]}")
    press(browser, "\ue014")  # the right arrow
    assert told.text.startswith(f"3 of 4: {METHODS[1]}")
    press(browser, "\ue012", "\ue012", "\ue012")
    assert told.text.startswith("4 of 4: Target")
    shown = one(browser, "dialog img")
    assert shown.get_attribute("src") == every(browser, ".zoom img")[3].get_attribute("src")
    press(browser, "\ue00c")  # escape
    wait(browser, lambda: not one(browser, "dialog").is_displayed())
    quiet(browser)


def test_the_table_of_files_sorts(browser, root, tmp_path):
    made = comparison(root)
    report.write(str(tmp_path / "r.html"), made)
    browser.get((tmp_path / "r.html").as_uri())
    settle(browser)
    one(browser, "details summary").click()
    heads = every(browser, ".sortable thead button")
    assert len(heads) == 4
    names = [cell.text for cell in every(browser, ".sortable tbody th")]
    assert names == sorted(name for name in NAMES for _ in METHODS)

    def column():
        return [float(cell.text) for cell in every(browser, ".sortable tbody td:nth-child(3)")]

    heads[2].click()
    assert column() == sorted(column())
    heads[2].click()
    assert column() == sorted(column(), reverse=True)
    heads[0].click()
    assert [cell.text for cell in every(browser, ".sortable tbody th")] == names
    quiet(browser)


def start(browser, page, rater):
    browser.get(page.as_uri())
    settle(browser)
    one(browser, "#rater").clear()
    one(browser, "#rater").send_keys(rater)
    one(browser, "#who button").click()
    wait(browser, lambda: one(browser, "#task").is_displayed())


def key_of(exported):
    return json.loads(base64.b64decode(exported["key"]))


def test_a_study_is_clicked_through_exported_and_counted(browser, root, tmp_path):
    page = tmp_path / "s.html"
    study(str(page), [str(root / "m0"), str(root / "m1")], str(root / "input"), 3)
    start(browser, page, "Ann")
    assert one(browser, "#count").text == "0 of 4 answered"
    one(browser, "#next").click()
    assert one(browser, "#message").text == "Answer both questions first."
    for task in range(4):
        assert f"Task {task + 1} of 4" in one(browser, "#note").text
        choose(browser, "better", "A")
        choose(browser, "hallucination", "neither")
        one(browser, "#next").click()
    wait(browser, lambda: one(browser, "#done").is_displayed())
    assert "All 4 tasks are answered, Ann" in one(browser, "#done").text
    one(browser, "#export-end").click()
    ann = downloaded(browser, set())
    assert ann.name.startswith("preference-")
    assert ann.name.endswith("-Ann.json")

    start(browser, page, "Bob")  # in the same browser, and by keys
    assert one(browser, "#count").text == "0 of 4 answered"
    for _ in range(4):
        press(browser, "2", "4")
        press(browser, "\ue007")
    wait(browser, lambda: one(browser, "#export-end").is_displayed())
    one(browser, "#export-end").click()
    bob = downloaded(browser, {ann})
    quiet(browser)

    exported = json.loads(ann.read_text("utf-8"))
    assert exported["rater"] == "Ann"
    assert set(exported["answers"]) == {"0", "1", "2", "3"}
    found = results([str(ann), str(bob)])
    assert found["failures"] == []
    assert {m: v["comparisons"] for m, v in found["methods"].items()} == {"m0": 8, "m1": 8}
    assert found["agreement"]["better"]["percent"] == 0
    assert found["methods"]["m0"]["preferred"] == 4
    as_a = sum(entry["A"] == "m0" for entry in key_of(exported))
    assert found["methods"]["m0"]["hallucinated"] == as_a


def test_a_study_survives_a_reload_and_answers_by_keyboard(browser, root, tmp_path):
    page = tmp_path / "s.html"
    study(str(page), [str(root / "m0"), str(root / "m1")], str(root / "input"), 4)
    start(browser, page, "Eve")
    press(browser, "1", "6", "z")
    assert "zoomed" in one(browser, ".panels").get_attribute("class")
    press(browser, "\ue007")
    assert "zoomed" not in one(browser, ".panels").get_attribute("class")
    assert "Task 2" in one(browser, "#note").text
    press(browser, "2")
    assert one(browser, "#count").text == "1 of 4 answered"
    browser.refresh()
    settle(browser)
    wait(browser, lambda: one(browser, "#rater").get_attribute("value") == "Eve")
    one(browser, "#who button").click()
    wait(browser, lambda: "Task 2" in one(browser, "#note").text)
    assert one(browser, "input[name=better][value=B]").is_selected()
    press(browser, "\ue012")
    assert one(browser, "input[name=hallucination][value=both]").is_selected()
    assert not one(browser, "#back").is_enabled()
    sources = [image.get_attribute("src")[:22] for image in every(browser, ".frame img")]
    assert sources == ["data:image/png;base64,"] * 3
    quiet(browser)


def test_names_of_files_cannot_break_out_of_the_page(browser, root, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    for folder in ("input", "m0"):  # one restoration only, so its path is told on the first screen
        (copy / folder / "x<").mkdir()
        shutil.copy(copy / folder / "plain.tif", copy / folder / "x<" / "script><b>y.tif")
    page = tmp_path / "s.html"
    study(str(page), [str(copy / "m0"), str(copy / "m1")], str(copy / "input"), 5)
    browser.get(page.as_uri())
    settle(browser)
    (note,) = every(browser, "#notes li")
    assert note.text.startswith("x</script><b>y:")
    assert every(browser, "#notes b") == []
    quiet(browser)
