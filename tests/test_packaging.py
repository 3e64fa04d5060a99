"The sdist brings what a wheel and the tests need"

import shutil
import subprocess
import sys
import tarfile

import pytest
from conftest import ROOT


def test_sdist(tmp_path):
    pytest.importorskip("setuptools")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = tracked.stdout.splitlines()
    kept = [n for n in names if n.split("/")[0] not in ("nbs", "scripts") and (ROOT / n).is_file()]
    for name in kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    command = [sys.executable, "setup.py", "-q", "sdist"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    [sdist] = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as tar:
        packed = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {n for n in kept if n.startswith(("simpsons_cnn/", "tests/", "configs/"))}
    assert wanted | {"settings.ini", "LICENSE", "README.md", "CHANGELOG.md"} <= packed
