"What `simpsons_train` prints of a run that does not repeat"

import pytest

from simpsons_cnn.cli.train import _print_verified


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
