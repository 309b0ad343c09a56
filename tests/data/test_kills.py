"""Processes killed at any moment: the data and the next run are as they were."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from small_mnist import cache

from bnutils.data import mnist as mnist_files
from bnutils.data.vision import import_mnist

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(os.name != "posix", reason="forks and SIGKILL"),
]
ROOT = Path(__file__).resolve().parents[2]


def environment(where: Path) -> dict[str, str]:
    """Home, cache and temporary files inside the folder."""
    homes = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(where))
    return os.environ | homes | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


KILLS = """
    import json, os, signal, sys, time
    from pathlib import Path
    from bnutils import data, models, sweep, train
    from bnutils.data import mnist as mnist_files
    from bnutils.data.vision import import_mnist
    {definitions}
    def moment(after):
        child = os.fork()
        if child == 0:
            work()
            os._exit(0)
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        files = [str(p) for p in Path.cwd().rglob("*") if p.is_file()]
        return os.waitstatus_to_exitcode(status), check(files)
    before = undisturbed()
    moments = [moment(after) for after in {moments}]
    print(json.dumps([before, moments, undisturbed()]))
    """


def kills(definitions: str, moments: list[float], where: Path) -> list:
    where.mkdir(exist_ok=True)
    text = textwrap.indent(textwrap.dedent(definitions), "    ")
    code = textwrap.dedent(KILLS.format(definitions=text.strip(), moments=moments))
    command = [sys.executable, "-W", "ignore", "-c", code]
    options = {"env": environment(where), "capture_output": True, "text": True}
    run = subprocess.run(command, cwd=where, timeout=280, **options)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_killed_download(mirror, contents, tmp_path):
    mnist = import_mnist().MNIST
    where = tmp_path / "cache"
    definitions = f"""
        import hashlib, shutil, threading
        from tqdm import tqdm
        tqdm.set_lock(threading.RLock())  # its own is shared with the forks, killed or not
        os.environ.pop("BNUTILS_DATA", None)
        mnist_files.FILES.update({dict(mnist_files.FILES)})
        mnist = import_mnist().MNIST
        mnist.mirrors, mnist.resources = {mnist.mirrors}, {mnist.resources}
        def undisturbed():
            return data.load().name
        def work():
            shutil.rmtree(data.cache_folder())
            data.load()
        def check(files):
            wrong = []
            for path in (p for p in map(Path, files) if "incomplete-" not in str(p)):
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                if digest != mnist_files.FILES[path.name][1]:
                    wrong.append(path.name)
            return wrong
        """
    before, moments, after = kills(definitions, [0.005, 0.02, 0.04, 0.07], where)
    assert before == after == "MNIST"
    assert [wrong for _, wrong in moments] == [[], [], [], []]
    assert moments[0][0] == -signal.SIGKILL
    assert all((cache() / n).read_bytes() == c for n, c in contents.items())


def test_killed_training_and_sweep_leave_nothing_and_change_nothing(tmp_path):
    definitions = """
        digits = data.load("digits")
        def experiment(seed, epochs):
            train.seed_all(seed)
            net = models.mlp((784, 32, 10))
            return train.fit(net, digits, epochs=epochs, threads=1).loss
        def work(epochs=500):
            return sweep.run(experiment, [(1, epochs), (2, epochs)], progress=False)
        def undisturbed():
            return list(work(1).values())
        def check(files):
            return files
        """
    before, moments, after = kills(definitions, [0, 0.05, 0.2], tmp_path / "run")
    assert moments == [[-signal.SIGKILL, []]] * 3
    assert before == after and len(before) == 2
