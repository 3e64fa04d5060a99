"""Dashboard: interrupts while a cell waits, folders in use, names from outside"""

import asyncio
import shutil
import signal
import threading
import time
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from ipywidgets.widgets.widget import _instances

from simpsons_cnn.core.config import Config
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.lab.dashboard import TrainingDashboard
from simpsons_cnn.training.callbacks import Callback


class Obedient:
    "A job that ends after it was asked to stop so many times `seconds` ago"

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __call__(self, callbacks):
        end = time.monotonic() + 20
        while not callbacks[0].control.stop_wanted and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(self.seconds)
        return "done"


@pytest.fixture
def interrupt():
    "A function that sends SIGINT to this thread after some seconds"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    main, timers = threading.get_ident(), []

    def after(seconds):
        timers.append(threading.Timer(seconds, signal.pthread_kill, (main, signal.SIGINT)))
        timers[-1].start()

    yield after
    for timer in timers:
        timer.join()
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_is_a_stop(interrupt):
    dashboard = TrainingDashboard(Obedient(0.0))
    interrupt(0.3)
    assert dashboard.result() == "done"
    assert dashboard.state == "stopped"


def test_a_second_interrupt_is_raised(interrupt):
    dashboard = TrainingDashboard(Obedient(1.0))
    interrupt(0.2)
    interrupt(0.5)
    with pytest.raises(KeyboardInterrupt):
        dashboard.result()
    assert dashboard.state == "stopping"
    assert dashboard.result() == "done"


def save(callbacks):
    "A job that nothing can stop any more"
    callbacks[0].control.move("saving")
    time.sleep(0.6)
    return "saved"


def test_an_interrupt_while_the_run_is_saved_is_raised_after_it(interrupt):
    dashboard = TrainingDashboard(save)
    interrupt(0.2)
    with pytest.raises(KeyboardInterrupt):
        dashboard.result()
    assert (dashboard.state, dashboard.returned) == ("finished", "saved")
    assert dashboard.result() == "saved"


def test_a_second_interrupt_does_not_wait_for_the_end_of_saving(interrupt):
    dashboard = TrainingDashboard(save)
    interrupt(0.1)
    interrupt(0.3)
    with pytest.raises(KeyboardInterrupt):
        dashboard.result()
    assert dashboard.state == "saving"
    with pytest.raises(KeyboardInterrupt):  # the first one
        dashboard.result()


def test_a_cancelled_coroutine_is_a_stop():
    async def cell():
        dashboard = TrainingDashboard(Obedient(0.3))
        waiting = asyncio.ensure_future(dashboard._wait())
        await asyncio.sleep(0.2)
        waiting.cancel()
        return await waiting, dashboard.state

    assert asyncio.run(cell()) == ("done", "stopped")


@pytest.fixture
def drawn(tmp_path):
    return demo_characters(tmp_path / "demo", train=12, test=1, size=64) / "train"


def quick_config(tmp_path, **changes):
    settings = dict(size=64, num_epochs=1, batch_size=8, split="random", testdir=None)
    return Config.demo(tmp_path, **(settings | changes))


def test_a_folder_in_use_is_refused(drawn, tmp_path):
    config = quick_config(tmp_path, traindir=drawn, out_directory=tmp_path / "run")
    TrainingDashboard(config).result()
    again = TrainingDashboard(config)
    with pytest.raises(FileExistsError, match="already holds a run"):
        again.result()
    assert again.state == "failed" and "already holds a run" in again.view.bar.value


def elements_of(text: str) -> list:
    "(name, attributes) of the elements of a page, as a browser finds them"
    found, parser = [], HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append((tag, dict(attributes)))
    parser.feed(text)
    return found


def test_names_are_text(drawn, tmp_path):
    strange = tmp_path / "strange"
    shutil.copytree(drawn / "mossy_mo", strange / "<b>")
    shutil.copytree(drawn / "pip_prickle", strange / "<script>alert(1)<")
    for folder in strange.iterdir():
        for i, picture in enumerate(sorted(folder.iterdir())):
            picture.rename(folder / f"<img src=x onerror=alert({i})>.jpg")
    dashboard = TrainingDashboard(quick_config(tmp_path, traindir=strange))
    dashboard.result()
    dashboard._draw()
    for text in (dashboard.static_html(), dashboard.view.figures.value):
        found = elements_of(text)
        assert [a for _, attributes in found for a in attributes if a.startswith("on")] == []
        ours = {"b"} if text.count("<b>Finished") else set()
        assert {tag for tag, _ in found} & {"script", "b"} == ours
        assert {a["src"][:10] for tag, a in found if tag == "img"} <= {"data:image"}
        assert "&lt;b&gt;" in text and "onerror=alert" in text


def test_the_job_of_a_dashboard_that_was_a_callback():
    "It was never started, and never will be"
    dashboard = TrainingDashboard(Obedient(0.0))
    run = SimpleNamespace(error=None, summary=lambda: "done")
    dashboard.on_end(run)
    dashboard.start()
    with pytest.raises(ValueError, match="has no job"):
        dashboard.result()
    assert dashboard.state == "finished"


@pytest.mark.parametrize("job", ["configs/simpsons.yaml", {"num_epochs": 3}, 7])
def test_what_is_no_job_is_refused_before_the_start(job):
    with pytest.raises(
        TypeError, match="job must be a Config or a function that takes callbacks, got"
    ):
        TrainingDashboard(job)


@pytest.mark.parametrize("useless", [dict(resume=True), dict(callbacks=[Obedient(0.0)])])
def test_arguments_that_only_a_config_can_use(useless):
    with pytest.raises(ValueError, match="callbacks and resume go with a Config"):
        TrainingDashboard(Obedient(0.0), **useless)


class PressesStop(Callback):
    "Presses a button of a dashboard after the first step of a refit"

    def __init__(self):
        self.dashboard, self.refits = None, []

    def for_refit(self):
        return StepsOfRefit(self)


class StepsOfRefit(Callback):
    def __init__(self, owner):
        self.owner = owner

    def on_step(self, run):
        self.owner.refits.append((self.owner.dashboard.state, run.epoch, run.step))
        if len(self.owner.refits) == 1:
            self.owner.dashboard.stop()


def test_the_button_stops_a_refit(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr("simpsons_cnn.training.outputs._save_figures", lambda run, data: [])
    presses = PressesStop()
    config = Config.demo(
        num_epochs=1,
        size=64,
        crop_size=64,
        batch_size=30,
        traindir=drawn,
        testdir=None,
        refit=True,
        out_directory=tmp_path / "run",
    )
    dashboard = presses.dashboard = TrainingDashboard(config, [presses])
    run = dashboard.result()
    assert presses.refits == [("training", 0, 0), ("stopping", 0, 1)]
    assert (run.refit, run.history.resumable, dashboard.state) == (None, True, "stopped")
    resumed = TrainingDashboard(config, resume=True)
    assert resumed.result().refit["pictures"] == 120 and resumed.state == "finished"


@pytest.mark.parametrize("jupyter, seconds", [(True, 4), (False, None)])
def test_a_script_that_ends_waits_for_its_run(monkeypatch, jupyter, seconds):
    "A thread that still computes while Python ends may abort it; a kernel is ended in any case"
    monkeypatch.setattr("simpsons_cnn.lab.dashboard.in_jupyter", lambda: jupyter)
    dashboard, waits = TrainingDashboard(Obedient(0.0)), []
    dashboard.start()
    with monkeypatch.context() as patched:
        patched.setattr(dashboard.job.done, "wait", lambda timeout=None: waits.append(timeout))
        dashboard.job._stop_at_exit()
    assert (dashboard.result(), waits) == ("done", [seconds])


def test_a_dashboard_that_has_ended_leaves_no_widgets():
    before = len(_instances)
    dashboard = TrainingDashboard(lambda callbacks: "done")
    dashboard.view.handles.append(SimpleNamespace(update=lambda page: None))
    assert len(_instances) > before
    assert dashboard.result() == "done"
    assert len(_instances) == before
