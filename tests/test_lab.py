"""A person's session in JupyterLab, played in a real browser: train, stop, ask, correct, lose the kernel, go on.

Needs Debian's Chromium (or another, named by CHROMIUM) and Playwright's Python package; without them it is skipped, and says so.
With SCREENSHOTS set to a folder, pictures of the page in both themes are left there.
"""
import csv, json, os, re, secrets, shutil, signal, socket, subprocess, sys, time, urllib.request
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = os.environ.get('CHROMIUM') or shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
if not CHROMIUM: pytest.skip('no Chromium here: apt-get install chromium, or name one in CHROMIUM', allow_module_level=True)
sync_api = pytest.importorskip('playwright.sync_api', reason='no Playwright here: pip install playwright')
psutil = pytest.importorskip('psutil', reason='no psutil here: pip install psutil')
FLAGS = '--no-sandbox --disable-gpu --disable-background-networking --no-first-run --disable-component-update --disable-sync'.split()
OUTPUT = '.jp-OutputArea-output'     # never the page as a whole: the source of a cell holds the same words


def wait_for(what, seconds=30, often=.1):
    "Ask until the answer is true, and return it"
    end = time.monotonic()+seconds
    while not (answer := what()):
        assert time.monotonic()<end, f'waited {seconds} s in vain'
        time.sleep(often)
    return answer


class Lab:
    "JupyterLab on a free port of this machine, with a configuration of its own that is gone afterwards"
    def __init__(self, folder:Path):
        self.folder,self.token,self.work = folder,secrets.token_hex(16),folder/'work'
        self.work.mkdir()
        with socket.socket() as s: s.bind(('127.0.0.1', 0)); self.port = s.getsockname()[1]
        places = dict(HOME='home', IPYTHONDIR='ipython', JUPYTER_CONFIG_DIR='config', JUPYTER_DATA_DIR='data', JUPYTER_RUNTIME_DIR='runtime',
                      JUPYTERLAB_SETTINGS_DIR='settings', JUPYTERLAB_WORKSPACES_DIR='workspaces')
        env = {k: v for k,v in os.environ.items() if not k.startswith(('JUPYTER','IN_TEST'))} | {k: str(folder/v) for k,v in places.items()}
        news = folder/'settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings'
        news.parent.mkdir(parents=True); news.write_text(json.dumps(dict(fetchNews='false', checkForUpdates=False)))
        command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--expose-app-in-browser', '--ServerApp.ip=127.0.0.1', f'--ServerApp.port={self.port}',
                   '--ServerApp.port_retries=0', f'--IdentityProvider.token={self.token}', f'--ServerApp.root_dir={self.work}', '--LabApp.news_url=',
                   '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
        with open(folder/'lab.log', 'w') as log: self.server = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
        wait_for(self._answers, 60)

    def _answers(self):
        assert self.server.poll() is None, (self.folder/'lab.log').read_text()[-3000:]
        try: return urllib.request.urlopen(f'http://127.0.0.1:{self.port}/api', timeout=5).status==200
        except OSError: return False

    def url(self, notebook): return f'http://127.0.0.1:{self.port}/lab/tree/{notebook}?token={self.token}&reset'
    def kernels(self): return [p for p in psutil.Process(self.server.pid).children(recursive=True) if 'ipykernel_launcher' in ' '.join(p.cmdline())]
    def close(self):
        self.server.terminate()
        try: self.server.wait(20)
        except subprocess.TimeoutExpired: self.server.kill()


class Notebook:
    "A page of the browser that shows a notebook, and what happened on it"
    def __init__(self, browser, lab:Lab, name:str):
        self.lab,self.requests,self.errors = lab,[],[]
        self.page = browser.new_page(viewport=dict(width=1300, height=1000))
        self.page.set_default_timeout(30_000)
        self.page.on('request', lambda r: self.requests.append(r.url))
        self.page.on('websocket', lambda w: self.requests.append(w.url))
        self.page.on('pageerror', lambda e: self.errors.append(str(e)))
        self.page.on('console', lambda m: m.type=='error' and self.errors.append(m.text))
        self.page.on('dialog', lambda d: (self.errors.append(f'a dialog says {d.message!r}'), d.dismiss()))
        self.page.goto(lab.url(name)); self.page.wait_for_selector('.jp-Notebook')
        self.wait_idle(); self.command('application:toggle-left-area')

    def command(self, name, **args): return self.page.evaluate('([name, args]) => window.jupyterapp.commands.execute(name, args).then(() => null)', [name, args])
    def wait_idle(self, seconds=60): # before this, running a cell asks for a kernel in a dialog
        self.page.wait_for_function("document.querySelector('#jp-main-statusbar')?.innerText.includes('| Idle')", timeout=seconds*1000)
    def run_all(self): self.page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells') && null")
    def output(self, **kwargs): return self.page.locator(OUTPUT).filter(**kwargs)
    def errors_shown(self): return self.page.locator(f'{OUTPUT} .jp-RenderedText[data-mime-type="application/vnd.jupyter.stderr"], {OUTPUT}[data-mime-type="application/vnd.jupyter.error"]').all_inner_texts()

    def screenshots(self, name:str, shown):
        "The output in both themes, if anybody wants to see"
        folder = os.environ.get('SCREENSHOTS')
        if not folder: return
        Path(folder).mkdir(parents=True, exist_ok=True)
        size = self.page.viewport_size; self.page.set_viewport_size(dict(width=1300, height=1700))
        for theme in ('Dark','Light'):
            self.command('apputils:change-theme', theme=f'JupyterLab {theme}'); self.page.wait_for_timeout(1500)
            shown.scroll_into_view_if_needed(); shown.screenshot(path=f'{folder}/{name}-{theme.lower()}.png')
        self.page.set_viewport_size(size)


def fixes_in(path): # picture -> (action, character), the last word on each, read without our own code
    if not path.exists(): return {}
    with open(path, newline='') as f: return {file: (action, who) for file,action,who in list(csv.reader(f))[1:]}


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    try: yield lab
    finally: lab.close()

@pytest.fixture
def browser():
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try: yield browser
        finally: browser.close()
