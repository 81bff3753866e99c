"""The page in Chromium, driven by Selenium. Labels are those of `predict`, and the keyboard is enough."""

import base64
import json
import re
import time

import numpy as np
import pytest
from PIL import Image

from tests.explorer.explorer_samples import PAGE, model_of_the_docs, needs_extra, needs_vectors, program
from tests.packed import packed_samples
from xnor_ref import load_packed
from xnor_ref.datasets import shapes
from xnor_ref.datasets.images import load_photo

pytestmark = [pytest.mark.interop, needs_extra]
PHONE, DESKTOP = 360, 1280
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    """Chromium with the page of the docs, light, on a desktop's screen."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program(*CHROMIUM)
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=program("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(120)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser):
    """The page, opened anew; afterwards nothing was complained of."""
    open_page(browser)
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []


def open_page(browser, width=DESKTOP, theme="light"):
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(PAGE.as_uri())
    wait(lambda: browser.execute_script("return document.body.dataset.ready === 'yes'"))


def wait(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the page is not ready"
        time.sleep(0.05)


def text(browser, selector):
    return browser.execute_script("return document.querySelector(arguments[0]).innerText", selector)


def keys(browser, *pressed):
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*pressed).perform()


RUN = """
const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
const { network } = Explorer.state;
const size = Operations.size(network.shape);
const found = [];
for (let at = 0; at < bytes.length; at += size)
  found.push(Operations.run(network, bytes.subarray(at, at + size)).map(({ output, Z }) => [output.data, Z]));
"""


def encoded(pixels):
    return base64.b64encode(pixels.tobytes()).decode()


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return load_packed(model_of_the_docs(tmp_path_factory.mktemp("model")))


def test_labels_of_200_drawings_are_those_of_predict(page, network):
    pixels = np.stack([shapes.draw(0, "val", index) for index in range(200)])
    script = RUN + "return JSON.stringify(found.map((layers) => Array.from(layers.at(-1)[0])));"
    logits = np.float32(json.loads(page.execute_script(script, encoded(pixels))))
    assert np.array_equal(logits.argmax(axis=1), network.predict(pixels))
    assert len(set(logits.argmax(axis=1).tolist())) > 8


@needs_vectors
def test_every_number_of_every_layer_is_that_of_trace(page, network):
    pixels = shapes.draw(1, "val", 5)
    script = RUN + "return JSON.stringify(found[0].map(([y, z]) => [Array.from(y), z && Array.from(z)]));"
    found = json.loads(page.execute_script(script, encoded(pixels)))
    counted = 0
    for (output, z), (name, arrays) in zip(found, network.trace(pixels).items(), strict=True):
        assert np.array_equal(np.float32(output), arrays["output"].ravel()), name
        if "Z" in arrays:
            assert z == arrays["Z"].ravel().tolist(), name
            counted += 1
    assert counted == 3


def open_file(browser, path):
    done = "return [document.getElementById('seen-note').textContent, document.getElementById('problem').textContent]"
    browser.find_element("id", "file").send_keys(str(path))
    wait(lambda: any(path.name in part for part in browser.execute_script(done)))
    wait(lambda: "Computed" in text(browser, "#status") or text(browser, "#problem"))


@pytest.mark.realdata
def test_photos(page, network, real_data):
    channels, *size = network.input_shape
    for path in sorted((real_data / "photos").iterdir()):
        open_file(page, path)
        state = "return [Array.from(Explorer.state.pixels), document.querySelector('#answer li span').textContent]"
        pixels, label = page.execute_script(state)
        expected = load_photo(path, tuple(size), channels)
        assert np.abs(np.int16(pixels) - expected.ravel()).max() <= 3, path  # decoders of JPEG may differ a little
        assert label == network.classes[network.predict(expected)[0]], path


def test_pictures_of_many_kinds(page, network, tmp_path):
    """Turned by EXIF, transparent, CMYK, of 16 bits: what the network sees is what `predict` gives it."""
    picture = Image.fromarray(shapes.draw(2, "val", 3)).resize((150, 100))
    clear, turned = picture.convert("RGBA"), Image.Exif()
    clear.putalpha(picture.convert("L"))
    turned[0x0112] = 6
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    for made, name, options in (
        (picture, "turned.jpg", {"exif": turned, "quality": 95}),
        (picture.convert("CMYK"), "cmyk.jpg", {"quality": 95}),
        (clear, "clear.png", {}),
        (deep, "deep.png", {}),
    ):
        made.save(tmp_path / name, **options)
        open_file(page, tmp_path / name)
        pixels = np.int16(page.execute_script("return Array.from(Explorer.state.pixels)"))
        expected = load_photo(tmp_path / name, network.input_shape[1:], 3)
        assert np.abs(pixels - expected.ravel()).max() <= 1, name


def test_a_file_that_is_no_picture(page, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    open_file(page, tmp_path / "text.png")
    assert text(page, "#problem") == "text.png is not a picture that this browser can read"
    damaged = tmp_path / "damaged.safetensors"
    content = bytearray(model_of_the_docs(tmp_path).read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    open_file(page, damaged)
    assert "damaged.safetensors is damaged" in text(page, "#problem")
    assert len(text(page, "#answer").splitlines()) == 10  # the answer to what was there before


def test_a_number_is_counted_from_its_words(page, network):
    """The sum that the page writes out, with the keyboard alone, for an output at the border."""
    from selenium.webdriver import Keys

    pixels = np.uint8(page.execute_script("return Array.from(Explorer.state.pixels)")).reshape(64, 64, 3)
    page.find_element("css selector", "#cards canvas[data-map=Y]").send_keys(
        *[Keys.ARROW_UP] * 8, *[Keys.ARROW_LEFT] * 7
    )
    at = page.execute_script("return [Explorer.state.at.o, Explorer.state.at.y, Explorer.state.at.x]")
    assert at == [0, 0, 1]
    arrays = network.trace(pixels)["block1.conv"]
    z, y = arrays["Z"][0, 0, 0, 1], arrays["output"][0, 0, 0, 1]
    shown = text(page, "#sum").replace("\u2212", "-").replace(",", "")
    n = 32 * 6  # one row of the window lies beyond the border
    assert "leaves 192. So n = 192." in shown
    assert f"Z = n - 2 × {(n - z) // 2} = {n} - {n - z} = {z}" in shown
    assert np.float32(re.findall(r"Y = (\S+)", shown)[-1]) == y
    rows = [row.split() for row in shown.splitlines() if re.match(r"\d+\s+[0-9a-f]{16}\s", row)]
    assert len(rows) == 5 and sum(int(row[-1]) for row in rows) == n - (n - z) // 2
    for _, x, w, xnor, ones in rows:
        assert int(xnor, 16).bit_count() == int(ones)
        assert int(xnor, 16) & (int(x, 16) ^ int(w, 16)) == 0
    alpha, k = network.alpha("block1.conv")[0], arrays["K"][0, 0, 0, 1]
    assert all(repr(float(number))[:6] in shown for number in (alpha, k))


SAMPLES = (packed_samples.every_op, packed_samples.version_3, packed_samples.version_4, packed_samples.version_6)


def test_other_networks_are_opened_and_every_operation_is_explained(page, tmp_path):
    """At the first and the last output of each layer, the sum that is written out ends with that output."""
    for sample in SAMPLES:
        path = tmp_path / f"{sample.__name__}.safetensors"
        sample().network().save(path)
        page.find_element("id", "file").send_keys(str(path))
        layers = len(sample().metadata["graph"])
        wait(lambda count=layers: page.execute_script("return Explorer.state.found.length") == count)
        assert text(page, "#problem") == ""
        wrong = page.execute_script(
            """
            const wrong = [];
            const { network, found } = Explorer.state;
            for (const layer of network.layers) {
              Explorer.choose(layer.index);
              const { data } = found[layer.index].output;
              const [o, y = 1, x = 1] = layer.shape;
              for (const [at, i] of [[{ o: 0, y: 0, x: 0 }, 0], [{ o: o - 1, y: y - 1, x: x - 1 }, data.length - 1]]) {
                Explorer.pick(at);
                const said = [...document.querySelectorAll("#sum .big")].at(-1).textContent;
                if (said !== `Y = ${Drawing.shown(data[i])}`) wrong.push([layer.name, said, data[i]]);
                const z = [...document.querySelectorAll("#sum .big")].at(0).textContent.split("= ").at(-1);
                const { Z } = found[layer.index];
                if (Z && z !== Drawing.shown(Z[i])) wrong.push([layer.name, z, Z[i]]);
              }
            }
            return wrong;
            """
        )
        assert wrong == [], sample


def test_bits_and_padding_are_changed(page, network):
    page.execute_script("Explorer.pick({ o: 3, y: 5, x: 5 })")
    before = page.execute_script("return Array.from(Explorer.state.found[5].Z)")
    page.execute_script("document.getElementById('flip').click()")
    wait(lambda: text(page, "#effect"))
    after = page.execute_script("return Array.from(Explorer.state.found[5].Z)")
    changed = np.flatnonzero(np.array(before) != after)
    assert set(changed // 256) == {3} and set(abs(np.array(before) - after)[changed]) == {
        2
    }  # filter 3; a sign counts 2
    assert f"1 bit of block1.conv is flipped. Z changes at {len(changed)} of 16,384" in text(page, "#effect")
    page.execute_script("document.getElementById('undo').click()")
    wait(lambda: "as they were" in text(page, "#effect"))
    assert page.execute_script("return Array.from(Explorer.state.found[5].Z)") == before
    script = "return Explorer.change({ pad: 1 }).then(() => Array.from(Explorer.state.found[5].Z))"
    padded = page.execute_script(script)
    border = np.ones((16, 16), bool)
    border[1:-1, 1:-1] = False
    where = (np.array(padded) != before).reshape(64, 16, 16).any(axis=0)
    assert where[border].all() and not where[~border].any()
    page.execute_script("return Explorer.change({ share: 50 })")
    assert "before" in text(page, "#answer") and "The answer" in text(page, "#effect")


def test_layers_are_reached_by_the_keyboard(page):
    from selenium.webdriver import Keys

    page.execute_script("document.querySelector('#layers [aria-selected=true]').focus()")
    for key, name in (
        (Keys.HOME, "stem.conv"),
        (Keys.ARROW_DOWN, "stem.bn"),
        (Keys.END, "classifier"),
        (Keys.ARROW_UP, "pool"),
    ):
        keys(page, key)
        assert page.execute_script("return document.activeElement.innerText").startswith(name)
        assert text(page, "#layer-title").startswith(name) and text(page, "#sum h3").startswith(name)
    reached = set()
    page.execute_script("Explorer.choose(5); document.activeElement.blur()")
    for _ in range(40):
        keys(page, Keys.TAB)
        reached.add(page.execute_script("const e = document.activeElement; return e.id || e.dataset.map || e.tagName"))
    assert {"file", "Y", "SUMMARY", "INPUT", "BUTTON"} <= reached


@pytest.mark.parametrize(("width", "theme"), [(PHONE, "light"), (DESKTOP, "dark")])
def test_every_layer_fits_the_screen(browser, width, theme):
    open_page(browser, width, theme)
    problems = browser.execute_script(
        """
        const found = [];
        document.querySelectorAll("details").forEach((details) => { details.open = true; });
        for (const { index, name } of Explorer.state.network.layers) {
          Explorer.choose(index);
          if (document.documentElement.scrollWidth > innerWidth) found.push(`${name}: wider than the screen`);
          if (!document.querySelector("#sum .big")) found.push(`${name}: no sum`);
        }
        for (const one of document.querySelectorAll("button, input, canvas[tabindex]"))
          if (!(one.innerText || one.getAttribute("aria-label") || one.closest("label"))) found.push(one.outerHTML);
        return [found, getComputedStyle(document.body).backgroundColor];
        """
    )
    assert problems == [[], "rgb(255, 255, 255)" if theme == "light" else "rgb(20, 23, 27)"]
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []
