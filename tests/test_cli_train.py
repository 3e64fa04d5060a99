"What `simpsons_train` prints of a run that does not repeat"

import pytest

from simpsons_cnn.cli.train import _load_config, _print_verified
from simpsons_cnn.core.config import Config
from simpsons_cnn.core.run_folders import link_run


@pytest.mark.parametrize(
    "surroundings, end",
    [
        ([], "agree to 1.0e-07 (relative)"),
        (["torch 2.9, now 2.10"], "(relative); surroundings differ: torch 2.9, now 2.10"),
        (["a, now b", "c, now d"], "; surroundings differ: a, now b; c, now d"),
    ],
)
def test_a_run_that_does_not_repeat(surroundings, end):
    found = dict(steps=3, same=False, loss=1e-7, surroundings=surroundings)
    with pytest.raises(SystemExit) as ended:
        _print_verified(found, "runs/001")
    start = "error: the first 3 steps of 'runs/001' do not repeat to the same bits; their losses"
    assert ended.value.code.startswith(start) and ended.value.code.endswith(end)


@pytest.mark.parametrize("newer", [True, False])
def test_resume_alone_says_that_a_newer_series_is_not_meant(tmp_path, capsys, newer):
    "Somebody who stopped `--folds` and typed `--resume` alone would wait for the wrong run"
    run, series = tmp_path / ("009" if newer else "011"), tmp_path / "010"
    for folder in (run, series / "fold_1"):
        (folder / "model").mkdir(parents=True)
        Config().save(folder / "model/config.yaml")
    link_run(run)
    config, _ = _load_config(None, dict(runs_directory=tmp_path), resume=True)
    assert config.out_model_directory == run / "model"
    note = f"note: '{series}' is newer, a series of runs; to continue it, repeat its --seeds or"
    assert capsys.readouterr().err.startswith(note) == newer
