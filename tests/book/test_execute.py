"""`make notebooks` stores what a reader may see, in one form, or leaves a notebook as it was."""

from __future__ import annotations

import json
import os

import execute
import nbformat.v4 as v4
import provenance
import pytest
from normalise import normalise, text


def notebook(*sources: str) -> dict:
    nb = v4.new_notebook(cells=[v4.new_code_cell(s) for s in sources])
    return json.loads(json.dumps(nb))


@pytest.fixture
def stored(tmp_path):
    """A function that stores a notebook as chapter 99 and returns its path."""

    def store(*sources: str):
        path = tmp_path / "99_try.ipynb"
        path.write_text(text(normalise(notebook(*sources))), "utf8")
        return path

    return store


def outputs(path) -> str:
    return "".join(
        "".join(o.get("text", ""))
        for c in json.loads(path.read_text("utf8"))["cells"]
        for o in c["outputs"]
    )


def test_normalise_drops_what_changes_from_run_to_run():
    nb = notebook("print(1)", "print(1)")
    nb["cells"][0]["id"] = nb["cells"][1]["id"] = "same"
    nb["cells"][0]["metadata"] = {
        "tags": ["timing"],
        "execution": {"iopub.status": "2026"},
        "scrolled": True,
    }
    nb["cells"][0]["outputs"] = [
        {"output_type": "stream", "name": "stdout", "text": piece}
        for piece in ("1\n", "2\n")
    ]
    nb["metadata"] = {
        "widgets": {},
        "kernelspec": {"name": "mine"},
        provenance.KEY: {"code": "abc"},
    }
    new = normalise(nb)
    assert new["cells"][0]["metadata"] == {"tags": ["timing"]}
    assert new["cells"][0]["outputs"][0]["text"] == ["1\n", "2\n"]
    assert len({c["id"] for c in new["cells"]}) == 2
    assert new["metadata"]["kernelspec"]["name"] == "python3"
    assert new["metadata"][provenance.KEY] == {"code": "abc"}
    assert text(normalise(new)) == text(new)


def test_a_stale_notebook_is_executed_once_and_the_same_each_time(stored, capsys):
    path = stored("x = 6", "print(7 * x)")
    assert execute.main([str(path)]) == 0
    assert outputs(path) == "42\n"
    first = path.read_bytes()
    assert execute.main([str(path)]) == 0
    assert "0 to execute" in capsys.readouterr().out
    assert execute.main(["--force", str(path)]) == 0
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (("print('fine')", "1 / 0", "print('later')"), "cell 2 failed"),
        (
            ("import sys", "print('a warning', file=sys.stderr)"),
            "cell 2 wrote to stderr: a warning",
        ),
    ],
)
def test_what_a_reader_should_not_see_is_named_and_not_stored(
    stored, capsys, cells, message
):
    path = stored(*cells)
    before = path.read_bytes()
    assert execute.main([str(path)]) == 1
    assert message in capsys.readouterr().out
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_nothing_is_stored_from_other_data_than_mnist(stored, capsys, monkeypatch):
    monkeypatch.setenv("BNUTILS_DATA", "digits")
    path = stored("from bnutils import data", "print(data.load())")
    before = path.read_bytes()
    assert execute.main([str(path)]) == 1
    assert "come from MNIST, but here: digits" in capsys.readouterr().out
    assert path.read_bytes() == before
