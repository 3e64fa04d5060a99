"""The page of `export_web` in a real browser: the answers of the library, and no other host.

Needs Chromium (another one is named by CHROMIUM), Playwright's Python package, and
onnxruntime-web, from the cache or from npm; without them the tests are skipped, and say so.
With SCREENSHOTS set to a folder, pictures of the page in both themes are left there.
"""

import base64
import contextlib
import functools
import io
import os
import re
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_inference_export import opinionated

from simpsons_cnn.data.preprocess import Preprocess
from simpsons_cnn.inference import web
from simpsons_cnn.inference.export import pictures_to_check
from simpsons_cnn.inference.web import (
    _ORT_FILES,
    _is_runtime,
    _write_page,
    export_web,
    runtime_archive,
)

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
PHONE = dict(width=390, height=844)


def test_another_file_is_no_runtime(tmp_path):
    (tmp_path / "other.tgz").write_bytes(b"something else")
    with pytest.raises(ValueError, match="onnxruntime-web .* as packed by npm, got 14 bytes"):
        runtime_archive(tmp_path / "other.tgz")
    assert not _is_runtime(b"")


def test_a_download_that_fails_says_what_to_do(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(OSError, match="no network.*npm pack onnxruntime-web@"):
        runtime_archive()
    assert list(tmp_path.iterdir()) == []


class Answer(io.BytesIO):
    "An answer of npm, of 4 bytes where 10 were announced"

    headers = {"Content-Length": "10"}


def test_a_download_shows_how_far_it_is_and_a_torn_one_is_refused(tmp_path, monkeypatch):
    bars = []

    class Bar(contextlib.nullcontext):
        def update(self, n):
            bars[-1]["done"] = n

    def progress_bar(**kwargs):
        bars.append(kwargs)
        return Bar(Bar())

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: Answer(b"torn"))
    monkeypatch.setattr("simpsons_cnn.inference.web.progress_bar", progress_bar)
    with pytest.raises(ValueError, match="got 4 bytes with another SHA-512"):
        runtime_archive()
    assert [(bar["total"], bar["done"]) for bar in bars] == [(10, 4)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("home", ["~", "/proc/none"])
def test_without_a_home_the_package_is_still_found(tmp_path, monkeypatch, home):
    "Some containers have a user without a home, or with one that cannot be written to"
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path.replace("~", home))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(web, "_download", lambda: b"the package")
    monkeypatch.setattr(web, "_is_runtime", lambda archive: archive == b"the package")
    monkeypatch.chdir(tmp_path)
    assert runtime_archive() == b"the package"
    kept = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert kept == ([] if home == "/proc/none" else [f"onnxruntime-web-{web.ORT_VERSION}.tgz"])
    assert not (tmp_path / "~").exists()


def test_each_file_is_kept_for_a_visit_without_a_network(tmp_path):
    _write_page(tmp_path)
    kept = set(re.findall(r'"([\w.]+\.\w+)"', (tmp_path / "offline.js").read_text()))
    page = {path.name for path in tmp_path.iterdir()} - {"index.html", "offline.js"}
    assert kept == page | set(_ORT_FILES.values()) | {"model.json", "model.onnx"}


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("no Chromium here: apt-get install chromium, or name one in CHROMIUM")
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="no Playwright here: pip install playwright"
    )
    flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_api.sync_playwright() as p:
        yield p.chromium.launch(executable_path=CHROMIUM, args=flags)


@pytest.fixture(scope="module")
def runtime():
    try:
        return runtime_archive()
    except OSError as e:
        pytest.skip(f"no onnxruntime-web here: {e}")


def serve(folder: Path) -> ThreadingHTTPServer:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Site:
    "An exported folder on a server of its own, and the classifier it was made from"

    def __init__(self, folder: Path):
        self.clf = opinionated()
        self.examples = pictures_to_check(n=2)
        self.found = export_web(self.clf, folder, pictures_to_check(n=3), examples=self.examples)
        self.folder, self.server = folder, serve(folder)
        self.url = f"http://localhost:{self.server.server_port}/"

    def open(self, browser, **options):
        "A page on which the model is ready; it collects the `hosts` that it asks, and its `errors`"
        page = browser.new_page(**options)
        page.hosts, page.errors = set(), []
        page.on("console", lambda m: page.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("request", lambda r: page.hosts.add(r.url.split("/")[2]))
        page.goto(self.url)
        page.locator("#status", has_text=re.compile("^Ready$")).wait_for()
        return page


@pytest.fixture(scope="module")
def site(tmp_path_factory, runtime):
    made = Site(tmp_path_factory.mktemp("web") / "site")
    yield made
    made.server.shutdown()


def as_bytes(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def largest_difference(page, clf, pictures: list) -> float:
    "Of a probability, between the page and the library"
    ask = """async (text) => {
        const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
        return (await classify(new Blob([bytes]))).probabilities;
    }"""
    found = [page.evaluate(ask, base64.b64encode(data).decode()) for data in pictures]
    expected = [clf.predict(data).probabilities for data in pictures]
    return float(np.abs(np.array(found) - np.array(expected)).max())


def test_50_drawn_pictures_have_the_answers_of_the_library(browser, site):
    page = site.open(browser)
    pictures = [as_bytes(image, "png") for image in pictures_to_check(n=50)]
    assert largest_difference(page, site.clf, pictures) < 1e-3
    assert page.hosts == {f"localhost:{site.server.server_port}"} and page.errors == []


RESIZE = """async ([text, size, rule]) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return Array.from(toSquare(await decode(new Blob([bytes])), size, rule));
}"""


@pytest.mark.parametrize("rule", ["stretch", "pad"])
def test_resized_to_the_same_bytes(browser, site, rule):
    page = site.open(browser)
    face = pictures_to_check(n=1)[0]
    for size, shape in ((96, (300, 401)), (64, (7, 500)), (97, (50, 41)), (64, (1, 2))):
        picture = as_bytes(face.resize(shape), "png")
        found = page.evaluate(RESIZE, [base64.b64encode(picture).decode(), size, rule])
        expected = Preprocess(size, rule).decode(io.BytesIO(picture))
        assert found == expected.ravel().tolist(), (size, shape)


def test_kinds_of_files(browser, site):
    "JPEG, WebP, turned by EXIF, with transparency, grey, very wide, of one pixel, of 12 megapixels"
    face = pictures_to_check(n=1)[0].resize((400, 300))
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    face.save(turned, "jpeg", quality=95, exif=exif)
    ghost = face.copy()
    ghost.putalpha(Image.linear_gradient("L").resize(face.size))
    images = [(face.convert("L"), "png"), (face.resize((1000, 9)), "png"), (ghost, "png")]
    images += [(Image.new("RGB", (1, 1), "red"), "png"), (face, "jpeg"), (face, "webp")]
    images += [(face.resize((4000, 3000)), "jpeg")]
    pictures = [as_bytes(*image) for image in images] + [turned.getvalue()]
    assert largest_difference(site.open(browser), site.clf, pictures) < 1e-3


def choose(page, *files):
    "Put (name, bytes) into the field and wait until each has a card"
    before = page.locator(".card").count()
    given = [dict(name=name, mimeType="image/png", buffer=data) for name, data in files]
    page.set_input_files("#files", given)
    page.locator(".card").nth(before + len(files) - 1).wait_for()


def test_the_page_shows_names_and_broken_files(browser, site):
    page = site.open(browser, viewport=PHONE)
    page.evaluate("about.threshold = 1e9")  # nothing reaches it
    good = as_bytes(pictures_to_check(n=1)[0], "png")
    choose(page, ("good.png", good), ("<b>torn.png", b"no picture"))
    torn, answered = [page.locator(".card").nth(i) for i in (0, 1)]
    assert "not a picture" in torn.get_by_role("alert").inner_text()
    assert "<b>torn.png" in torn.inner_text()
    assert page.locator("#status").inner_text() == "<b>torn.png cannot be read"
    prediction = site.clf.predict(good)
    name = prediction.name.replace("_", " ")
    assert answered.get_by_role("heading").inner_text() == f"Not sure; nearest: {name}"
    rows = answered.get_by_role("listitem").all_inner_texts()
    assert len(rows) == 5 and f"{prediction.probability:.1%}".rstrip("%") in rows[0]
    assert "torn.png" in page.locator("#answers").inner_text()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"]


def leave_screenshots(page):
    "Pictures of the page in both themes, on a phone and on a desk, if a folder is named for them"
    folder = os.environ.get("SCREENSHOTS")
    for scheme in ("light", "dark") if folder else ():
        page.emulate_media(color_scheme=scheme)
        for size in (PHONE, dict(width=1200, height=800)):
            page.set_viewport_size(size)
            path = Path(folder) / f"web_{scheme}_{size['width']}.png"
            page.screenshot(path=path, full_page=True)


def test_keyboard_heat_map_camera_and_clear(browser, site):
    page = site.open(browser)
    clear = page.get_by_role("button", name="Clear")
    assert not clear.is_visible()  # there is nothing to clear
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    choose(page, ("a.png", as_bytes(pictures_to_check(n=1)[0], "png")))
    why = page.get_by_role("button", name="Why?")
    why.focus()
    page.keyboard.press("Enter")
    page.get_by_role("img", name="heat map").wait_for()
    assert why.get_attribute("aria-pressed") == "true"
    assert "supports it most" in page.locator(".card").inner_text()
    colours = page.evaluate("""() => {
        const c = document.querySelector('.card canvas');
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        return new Set(d).size;
    }""")
    assert colours > 20
    leave_screenshots(page)
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the picture").click()
    page.locator(".card").nth(1).wait_for()
    assert "camera" in page.locator(".card").first.inner_text()
    clear.click()
    assert not clear.is_visible()
    assert page.locator(".card").count() == 0 and page.errors == []


def test_examples(browser, site):
    page = site.open(browser, viewport=PHONE, is_mobile=True, has_touch=True)
    assert not page.get_by_text("Drop pictures").is_visible()  # a finger drops and pastes nothing
    buttons = page.locator("#examples button")
    assert buttons.count() == 2 and page.get_by_text("No picture at hand?").is_visible()
    buttons.nth(1).focus()
    page.keyboard.press("Enter")
    page.locator(".card").wait_for()
    name = site.clf.predict(site.folder / "example-2.jpg").name
    assert page.locator(".card h2").inner_text().endswith(name.replace("_", " "))
    assert page.get_by_role("img", name="Example 1").evaluate("image => image.naturalWidth") > 0
    leave_screenshots(page)
    page.evaluate("document.getElementById('examples').replaceChildren(); showExamples([])")
    assert not page.locator("#examples").is_visible() and page.errors == []


DROP = """async ([text, kind]) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], "given.png", { type: "image/png" }));
    const init = { bubbles: true, cancelable: true };
    const event = kind === "drop"
        ? new DragEvent("drop", { ...init, dataTransfer: data })
        : new ClipboardEvent("paste", { ...init, clipboardData: data });
    document.body.dispatchEvent(event);
}"""


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_dropped_and_pasted(browser, site, kind):
    page = site.open(browser)
    data = base64.b64encode(as_bytes(pictures_to_check(n=1)[0], "png")).decode()
    page.evaluate(DROP, [data, kind])
    page.locator(".card").wait_for()
    assert "given.png: " in page.locator("#status").inner_text()


def test_without_a_network_after_the_first_visit(browser, site):
    context = browser.new_context()
    page = site.open(context)
    page.evaluate("navigator.serviceWorker.ready")
    context.set_offline(True)
    again = site.open(context)
    choose(again, ("a.png", as_bytes(pictures_to_check(n=1)[0], "png")))
    assert again.locator(".card h2").count() == 1
    again.get_by_role("button", name="Example 1").click()
    again.locator(".card h2").nth(1).wait_for()
    context.close()


def test_opened_as_a_file_it_says_what_to_do(browser, site):
    page = browser.new_page()
    page.goto((site.folder / "index.html").as_uri())
    page.wait_for_timeout(500)
    assert "python -m http.server" in page.locator("#status").inner_text()
