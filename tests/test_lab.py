"""A person's session in JupyterLab, played in a real browser.

Train, stop, ask, correct, lose the kernel, resume. Needs Debian's Chromium (or another, named by
CHROMIUM) and Playwright's Python package; without them it is skipped, and says so.
With SCREENSHOTS set to a folder, pictures of the page in both themes are left there.
"""

import csv
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = (
    os.environ.get("CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("chromium-browser")
    or shutil.which("google-chrome")
)
if not CHROMIUM:
    pytest.skip(
        "no Chromium here: apt-get install chromium, or name one in CHROMIUM",
        allow_module_level=True,
    )
sync_api = pytest.importorskip(
    "playwright.sync_api", reason="no Playwright here: pip install playwright"
)
psutil = pytest.importorskip("psutil", reason="no psutil here: pip install psutil")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]
OUTPUT = (
    ".jp-OutputArea-output"  # never the page as a whole: the source of a cell holds the same words
)


def wait_for(what, seconds=30, often=0.1):
    "Ask until the answer is true, and return it"
    end = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(often)
    return answer


class Lab:
    "JupyterLab on a free port, with a configuration of its own that is removed afterwards"

    def __init__(self, folder: Path):
        self.folder, self.token, self.work = folder, secrets.token_hex(16), folder / "work"
        self.work.mkdir()
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        places = dict(
            HOME="home",
            IPYTHONDIR="ipython",
            JUPYTER_CONFIG_DIR="config",
            JUPYTER_DATA_DIR="data",
            JUPYTER_RUNTIME_DIR="runtime",
            JUPYTERLAB_SETTINGS_DIR="settings",
            JUPYTERLAB_WORKSPACES_DIR="workspaces",
        )
        env = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "IN_TEST"))} | {
            k: str(folder / v) for k, v in places.items()
        }
        news = folder / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
        news.parent.mkdir(parents=True)
        news.write_text(json.dumps(dict(fetchNews="false", checkForUpdates=False)))
        command = [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--allow-root",
            "--expose-app-in-browser",
            "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={self.port}",
            "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={self.token}",
            f"--ServerApp.root_dir={self.work}",
            "--LabApp.news_url=",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ]
        with open(folder / "lab.log", "w") as log:
            self.server = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
        wait_for(self._answers, 60)

    def _answers(self):
        assert self.server.poll() is None, (self.folder / "lab.log").read_text()[-3000:]
        try:
            return (
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api", timeout=5).status == 200
            )
        except OSError:
            return False

    def url(self, notebook):
        return f"http://127.0.0.1:{self.port}/lab/tree/{notebook}?token={self.token}&reset"

    def kernels(self):
        return [
            p
            for p in psutil.Process(self.server.pid).children(recursive=True)
            if "ipykernel_launcher" in " ".join(p.cmdline())
        ]

    def close(self):
        self.server.terminate()
        try:
            self.server.wait(20)
        except subprocess.TimeoutExpired:
            self.server.kill()


class Notebook:
    "A page of the browser that shows a notebook, and what happened on it"

    def __init__(self, browser, lab: Lab, name: str):
        self.lab, self.requests, self.errors = lab, [], []
        self.page = browser.new_page(viewport=dict(width=1300, height=1000))
        self.page.set_default_timeout(30_000)
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("websocket", lambda w: self.requests.append(w.url))
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("console", lambda m: m.type == "error" and self.errors.append(m.text))
        self.page.on(
            "dialog", lambda d: (self.errors.append(f"a dialog says {d.message!r}"), d.dismiss())
        )
        self.page.goto(lab.url(name))
        self.page.wait_for_selector(".jp-Notebook")
        self.wait_idle()
        self.command("application:toggle-left-area")

    def command(self, name, **args):
        return self.page.evaluate(
            "([name, args]) => window.jupyterapp.commands.execute(name, args).then(() => null)",
            [name, args],
        )

    def wait_idle(self, seconds=60):  # before this, running a cell asks for a kernel in a dialog
        self.page.wait_for_function(
            "document.querySelector('#jp-main-statusbar')?.innerText.includes('| Idle')",
            timeout=seconds * 1000,
        )

    def run_all(self):
        self.page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells') && null")

    def output(self, **kwargs):
        return self.page.locator(OUTPUT).filter(**kwargs)

    def errors_shown(self):
        mime = 'data-mime-type="application/vnd.jupyter'
        selector = f'{OUTPUT} .jp-RenderedText[{mime}.stderr"], {OUTPUT}[{mime}.error"]'
        return self.page.locator(selector).all_inner_texts()

    def failed(self):
        "What was seen last, if anybody wants to see"
        print("errors:", self.errors, self.errors_shown())
        if os.environ.get("SCREENSHOTS"):
            self.page.screenshot(path=os.environ["SCREENSHOTS"] + "/failed.png")

    def screenshots(self, name: str, shown):
        "The output in both themes, if anybody wants to see"
        folder = os.environ.get("SCREENSHOTS")
        if not folder:
            return
        Path(folder).mkdir(parents=True, exist_ok=True)
        size = self.page.viewport_size
        self.page.set_viewport_size(dict(width=1300, height=1700))
        for theme in ("Dark", "Light"):
            self.command("apputils:change-theme", theme=f"JupyterLab {theme}")
            self.page.wait_for_timeout(1500)
            shown.scroll_into_view_if_needed()
            shown.screenshot(path=f"{folder}/{name}-{theme.lower()}.png")
        self.page.set_viewport_size(size)


def fixes_in(
    path,
):  # picture -> (action, character), the last word on each, read without our own code
    if not path.exists():
        return {}
    with open(path, newline="") as f:
        return {file: (action, who) for file, action, who in list(csv.reader(f))[1:]}


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture
def browser():
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


SMALLER = {  # what the tutorial says: what is enough here
    'demo_characters(work / "demo")': 'demo_characters(work / "demo", train=40, test=10)',
    "Config.demo(num_epochs=8": "Config.demo(num_epochs=4",
}


class Page(Notebook):
    "The tutorial, smaller, up to where the form is not used any more"

    def __init__(self, browser, lab: Lab):
        cells = json.loads((ROOT / "nbs/tutorials/01_train_interactively.ipynb").read_text())
        sources = ["".join(c["source"]) for c in cells["cells"]]
        del cells["cells"][sources.index("## By hand") :]
        for c in cells["cells"]:
            c["source"] = "".join(c["source"])
            for written, smaller in SMALLER.items():
                c["source"] = c["source"].replace(written, smaller)
            c.get("outputs", []).clear()
        self.sources = [c["source"] for c in cells["cells"]]
        assert all(any(new in s for s in self.sources) for new in SMALLER.values())
        (lab.work / "nbs/tutorials").mkdir(parents=True)
        shutil.copytree(ROOT / "nbs/images", lab.work / "nbs/images")
        (lab.work / "nbs/tutorials/train.ipynb").write_text(json.dumps(cells))
        self.data = lab.work / "data"
        super().__init__(browser, lab, "nbs/tutorials/train.ipynb")
        self.at = 0

    def run_through(self, text):
        "Run the cells from where we are to the first that holds `text`"
        last = next(i for i in range(self.at, len(self.sources)) if text in self.sources[i])
        for i in range(self.at, last + 1):
            # a click into an output has made another cell the active one
            self.page.evaluate(
                "i => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = i }", i
            )
            self.command("notebook:run-cell-and-select-next")
        self.at = last + 1
        assert not self.errors_shown(), self.errors_shown()


def move_slider(page, name: str) -> float:  # where it is afterwards
    "Drag the handle to the right"
    slider = (
        page.output(has_text=name)
        .locator(".widget-slider, .widget-hslider")
        .filter(has_text=name)
        .first
    )
    handle = slider.locator(".noUi-handle")
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    readout = slider.locator(".widget-readout")
    before = readout.inner_text()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.page.mouse.move(x, y)
    page.page.mouse.down()
    page.page.mouse.move(x + 60, y, steps=5)
    page.page.mouse.up()
    wait_for(lambda: readout.inner_text() != before)
    return float(readout.inner_text())


def check_narrow(page, shown):
    "In a narrow window nothing that is shown is cut off"
    size = page.page.viewport_size
    page.page.set_viewport_size(dict(width=560, height=1000))
    widths = shown.evaluate("output => [output.scrollWidth, output.clientWidth]")
    page.page.set_viewport_size(size)
    assert widths[0] <= widths[1] + 2, widths


def train_and_stop(page):
    "Move a slider, start, and press stop in the midst of an epoch"
    page.run_through("TrainingControls(")
    epochs = move_slider(page, "num epochs")
    page.output().get_by_role("button", name="Start training").click()
    dashboard = page.output(has=page.page.get_by_role("progressbar"))
    dashboard.get_by_text(re.compile(r"epoch 2")).first.wait_for(timeout=60_000)
    check_narrow(page, dashboard.last)
    page.screenshots("dashboard", dashboard.last)
    page.output().get_by_role("button", name="Stop", exact=True).click()
    pressed = time.monotonic()
    page.output().get_by_text(re.compile("^(Stopped|Saving|Stopping|Judging)")).first.wait_for(
        timeout=10_000
    )
    heard = time.monotonic() - pressed
    page.output().get_by_text("Stopped", exact=True).first.wait_for(timeout=60_000)
    run = page.data / "runs/001"
    made = {p.name: p for p in run.rglob("*") if p.is_file()}
    assert heard < 3, f"stop was heard after {heard:.1f} s"
    assert {"model.safetensors", "last.ckpt", "history.csv", "config.yaml"} <= made.keys(), sorted(
        made
    )
    assert f"num_epochs: {epochs:.0f}\n" in made["config.yaml"].read_text()
    assert 1 <= len(made["history.csv"].read_text().splitlines()) - 1 < epochs


def classify(page, folder: Path):
    "Upload three pictures, of which one is none and one has a name that would like to be a program"
    page.run_through("ClassifyPictures(")
    drawn = sorted((page.data / "demo/test").rglob("*.jpg"))
    evil, torn = folder / "<img src=x onerror=alert(1)>.jpg", folder / "torn.jpg"
    shutil.copy(drawn[0], evil)
    torn.write_text("no picture")
    with page.page.expect_file_chooser() as chooser:
        page.output().get_by_role("button", name="Pictures").click()
    chooser.value.set_files([drawn[-1], torn, evil])
    cards = page.page.locator(f"{OUTPUT} .sc-card").filter(has=page.page.locator(".sc-line"))
    wait_for(lambda: cards.count() == 3)
    assert cards.locator(".sc-line").all_inner_texts() == [drawn[-1].name, "torn.jpg", evil.name]
    assert "cannot be read" in cards.nth(1).get_by_role("alert").inner_text()
    assert [cards.nth(i).locator(".sc-bar").count() for i in range(3)] == [3, 0, 3]
    picture = cards.nth(0).locator("img")
    before = picture.get_attribute("src")
    cards.nth(0).get_by_role("button", name="Why?").click()
    wait_for(lambda: picture.get_attribute("src") != before)
    page.screenshots("classify", page.output(has=page.page.locator(".widget-upload")))


def clean(page) -> dict:  # what was decided
    "Three labels: by mouse, by Tab and Enter alone, and by letters"
    page.run_through("LabelCleaner(wrong")
    cards = page.page.locator(f"{OUTPUT} .sc-card").filter(has_text="labelled")
    wait_for(lambda: cards.count() == 12)
    fixes, keyboard = page.data / "fixes.csv", page.page.keyboard
    names = [
        cards.nth(i).get_by_role("button", name="Keep").get_attribute("title").split()[1]
        for i in range(4)
    ]
    cards.nth(0).get_by_role("button", name="Keep").click()
    wait_for(lambda: len(fixes_in(fixes)) == 1)

    def focused():
        return page.page.evaluate("document.activeElement.title")

    # the next picture has the focus: no mouse from here on
    wait_for(lambda: focused().startswith(f"Keep {names[1]} "))
    for _ in range(3):
        keyboard.press("Tab")
    if focused() != f"Who is in {names[1]}?":
        keyboard.press("Shift+Tab")  # "It is" was disabled, so Tab went past it
    assert focused() == f"Who is in {names[1]}?"
    keyboard.type("mossy_mo")
    keyboard.press("Enter")
    wait_for(lambda: len(fixes_in(fixes)) == 2)
    # the focus moves once more, after the file was written; only then is the field clicked
    wait_for(lambda: focused().startswith(f"Keep {names[2]} "))
    page.output().get_by_label("Keys").click()
    keyboard.type("dku", delay=10)
    wait_for(lambda: fixes.read_text().count("undo") == 1)
    decided = fixes_in(fixes)
    page.screenshots("cleaner", page.output(has_text="page 1 of"))
    assert decided == {
        names[0]: ("keep", ""),
        names[1]: ("move", "mossy_mo"),
        names[2]: ("drop", ""),
        names[3]: ("undo", ""),
    }

    def verdicts():
        return [cards.nth(i).locator(".sc-verdict").inner_text().strip() for i in range(4)]

    wait_for(lambda: verdicts() == ["✓ kept", "→ mossy_mo", "✗ dropped", ""])
    return decided


def lose_kernel(page):
    "Kill it without a word; JupyterLab starts another"
    [kernel] = page.lab.kernels()
    kernel.send_signal(signal.SIGKILL)
    page.page.get_by_role("dialog").get_by_role("button", name=re.compile("ok", re.I)).click(
        timeout=60_000
    )
    wait_for(lambda: [k.pid for k in page.lab.kernels()] not in ([], [kernel.pid]))
    page.wait_idle()


def go_on(page, decided):
    "Run it all again: what was decided is decided, and the rest is still to do"
    page.run_all()
    page.output().get_by_text("page 1 of").first.wait_for(timeout=120_000)
    cleaner = page.output(has_text="page 1 of")
    wait_for(lambda: "3 decided" in cleaner.inner_text(), 60)

    def titles():
        "The names on all buttons, read at one moment"
        buttons = cleaner.get_by_role("button", name="Keep")
        found = buttons.evaluate_all("buttons => buttons.map(b => b.title)")
        return [title.split()[1] for title in found]

    assert not set(list(decided)[:3]) & set(titles())
    cleaner.get_by_role("button", name="Decided").click()
    wait_for(lambda: titles() == list(decided)[2::-1])
    assert fixes_in(page.data / "fixes.csv") == decided
    page.wait_idle(120)
    cleaner.get_by_role("button", name="To review").click()
    page.screenshots("cleaner-after", cleaner)


def test_session(lab, browser, tmp_path):
    page = Page(browser, lab)
    try:
        train_and_stop(page)
        classify(page, tmp_path)
        decided = clean(page)
        lose_kernel(page)
        go_on(page, decided)
    except BaseException:
        page.failed()
        raise
    shown = page.page.inner_text(".jp-Notebook")
    assert not re.search("Error displaying widget|[Mm]odel not found|Loading widget", shown)
    assert not page.errors_shown()
    assert not page.errors
    here = (f"http://127.0.0.1:{lab.port}/", f"ws://127.0.0.1:{lab.port}/", "data:", "blob:")
    assert [url for url in page.requests if not url.startswith(here)] == []
