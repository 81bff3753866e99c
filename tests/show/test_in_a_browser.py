"""The pages of `show` in a browser: nothing is wider than a phone, nothing is refused, all pictures are there."""

import pytest

from tests.explorer.explorer_samples import program
from tests.training.training_samples import tiny_config
from xnor_ref.cli import main
from xnor_ref.training.job import train_run

WIDTHS = 360, 1280


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium", "chromium-browser", "google-chrome")
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-background-networking"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(program("chromedriver"))
    with webdriver.Chrome(options, service) as driver:
        yield driver


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    run = folder / "a run with a long name and no end of words in it"
    train_run(tiny_config(folder, epochs=1), out=run)
    assert main(["show", str(run), "-o", str(folder / "report.html"), "--quiet"]) == 0
    assert main(["show", str(run), str(run / "sample.png"), "-o", str(folder / "photo.html"), "--quiet"]) == 0
    assert main(["show", str(run), str(run), "-o", str(folder / "runs.html"), "--quiet"]) == 0
    return sorted(folder.glob("*.html"))


@pytest.mark.interop
def test_pages_fit_a_phone_and_a_desk(browser, pages):
    assert len(pages) == 3
    for path in pages:
        for width in WIDTHS:
            size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get(path.as_uri())
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width, (path.name, width)
            small = "return [...document.images].filter(i => !i.complete || i.naturalWidth == 0).length"
            assert browser.execute_script(small) == 0
            letters = "return Math.min(9, ...[...document.querySelectorAll('svg text')].map(LETTER))"
            assert browser.execute_script(letters.replace("LETTER", "t => t.getBoundingClientRect().height")) > 8
            assert browser.get_log("browser") == [], path.name


@pytest.mark.interop
def test_pages_follow_the_readers_light_or_dark_mode(browser, pages):
    shades = []
    for mode in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": mode}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.get(pages[0].as_uri())
        shades.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert shades == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]
