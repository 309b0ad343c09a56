"""A notebook's fingerprint follows what its code does, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import nbformat.v4 as v4
import provenance
import pytest

CELL = "import os\n\nx = f(1, 2)  # a call\n"


def notebook(*sources: str, prose: str = "words") -> dict:
    cells = [v4.new_markdown_cell(prose), *map(v4.new_code_cell, sources)]
    return json.loads(json.dumps(v4.new_notebook(cells=cells)))


def of_cell(source: str, prose: str = "words") -> str:
    return provenance.fingerprint(notebook(source, prose=prose), "99")


@pytest.mark.parametrize(
    "same",
    [
        "import os\nx = f(1, 2)",
        "import os\n\n\nx = f(\n    1,\n    2,\n)\n# the end",
    ],
)
def test_comments_and_formatting_of_a_cell_do_not_count(same):
    assert of_cell(same) == of_cell(CELL)


def test_prose_does_not_count():
    assert of_cell(CELL, prose="other words") == of_cell(CELL)


@pytest.mark.parametrize(
    "other",
    [
        "import os\nx = f(1, 3)",
        "import os\nx = f(2, 1)",
        "import os\ny = f(1, 2)",
        "import os\nx = f(1, 2)\nx",
        "import os\nx = f(1, 2)\n'shown below the cell'",
        "import os\n'first'\nx = f(1, 2)",
        "import os\nx = f(1, 2) or None",
        "import os.path\nx = f(1, 2)",
    ],
)
def test_a_change_of_code_in_a_cell_counts(other):
    assert of_cell(other) != of_cell(CELL)


def test_the_cut_into_cells_counts():
    one = provenance.fingerprint(notebook("x = 1\ny = 2"), "99")
    two = provenance.fingerprint(notebook("x = 1", "y = 2"), "99")
    assert one != two


def test_docstrings_of_functions_and_classes_do_not_count():
    bare = "class A:\n    def f(self):\n        return 1"
    told = 'class A:\n    "Tell."\n\n    def f(self):\n        """Tell."""\n        return 1'
    assert of_cell(told) == of_cell(bare)
    assert of_cell("def f():\n    'Only told.'") == of_cell("def f():\n    pass")


def test_a_string_that_is_no_docstring_counts():
    assert of_cell("def f():\n    return 'a'") != of_cell("def f():\n    return 'b'")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("import a\nimport b", "import b\nimport a"),
        ("from a import b, c", "from a import c\nfrom a import b"),
        (
            "def f():\n    import a\n    import b",
            "def f():\n    import b\n    import a",
        ),
    ],
)
def test_the_order_of_neighbouring_imports_does_not_count(one, other):
    assert of_cell(one) == of_cell(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("import a\nx = 1\nimport b", "import b\nx = 1\nimport a"),  # x stands between
        ("from a import b", "from a import b as c"),
        ("from a import b", "from .a import b"),
        ("import a", "import a, b"),
    ],
)
def test_which_names_are_imported_counts(one, other):
    assert of_cell(one) != of_cell(other)


@pytest.mark.parametrize(
    ("typed", "bare"),
    [
        (
            "def f(x: int, *rest: str) -> str:\n    return x",
            "def f(x, *rest):\n    return x",
        ),
        ("async def f() -> int:\n    x: int = 1", "async def f():\n    x = 1"),
        ("def f():\n    x: int", "def f():\n    pass"),
        ("x: list[int] = []", "x = []"),
        ("from __future__ import annotations\nimport a", "import a"),
        (
            "from typing import TYPE_CHECKING, Any\nif TYPE_CHECKING:\n    import a",
            "from typing import Any",
        ),
        ("TYPE_CHECKING = False\nif TYPE_CHECKING:\n    import a\nx = 1", "x = 1"),
        ("class A:\n    x: int = 1", "class A:\n    x: str = 1"),
    ],
)
def test_what_only_a_type_checker_reads_does_not_count(typed, bare):
    assert of_cell(typed) == of_cell(bare)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("class A:\n    x: int = 1", "class A:\n    x = 1"),  # no field of a dataclass
        ("class A:\n    x: int", "class A:\n    pass"),
        ("class A:\n    x: ClassVar[int] = 1", "class A:\n    x: int = 1"),
        ("if TYPE_CHECKING or f():\n    import a", "pass"),
    ],
)
def test_annotations_that_python_reads_count(one, other):
    assert of_cell(one) != of_cell(other)


def test_a_module_imported_for_its_types_alone_is_not_used(package):
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .alone import x\n"
    (package / "second.py").write_text(text)
    nb = notebook("from bnutils import first")
    assert "bnutils.alone" not in provenance.modules(nb, "99")


def test_the_fingerprint_is_the_same_for_every_python():
    """The value is Python 3.10's; later ones have more fields and end f-strings differently."""
    code = "def f(x: int, *, w=2) -> str:\n    return f'{x:>{w}}' + u'a' + str(None)\n"
    assert provenance.python_meaning(code) == (
        "Module(body=[FunctionDef(name='f', args=arguments(args=[arg(arg='x')], "
        "kwonlyargs=[arg(arg='w')], "
        "kw_defaults=[Constant(value=2)]), body=[Return(value=BinOp(left=BinOp("
        "left=JoinedStr(values=[FormattedValue(value=Name(id='x', ctx=Load()), "
        "conversion=-1, format_spec=JoinedStr(values=[Constant(value='>'), "
        "FormattedValue(value=Name(id='w', ctx=Load()), conversion=-1)]))]), op=Add(), "
        "right=Constant(value='a')), op=Add(), right=Call(func=Name(id='str', "
        "ctx=Load()), args=[Constant()])))])])"
    )


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package: `first` imports `second`, `fast` has C++, `alone` nobody imports."""
    folder = tmp_path / "bnutils"
    for name in ("data", "exercises", "fast/csrc"):
        (folder / name).mkdir(parents=True)
    texts = {
        "__init__.py": "",
        "alone.py": "",
        "data/__init__.py": "from bnutils.data import digits\n",
        "data/digits.py": "",
        "first.py": "from .second import thing\n",
        "second.py": '"""A module."""\n\nthing = 1\n',
        "exercises/__init__.py": "",
        "exercises/ch98.py": "",
        "exercises/ch99.py": "",
        "fast/__init__.py": "",
        "fast/csrc/sum.h": '#include <vector>\n// doc\nint sum = 1 + 2; auto s = "a b";\n',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    return folder


def changed_by(package, name: str, text: str, code: str) -> bool:
    """Whether a notebook with that code gets another fingerprint when a file changes."""
    before = of_cell(code)
    (package / name).write_text(text)
    return of_cell(code) != before


def test_modules_are_found_through_modules(package):
    nb = notebook("from bnutils import exercises, first")
    assert list(provenance.modules(nb, "99")) == [
        "bnutils",
        "bnutils.first",
        "bnutils.second",
    ]


@pytest.mark.parametrize(
    ("name", "text", "counts"),
    [
        ("second.py", "thing = 2", True),
        ("second.py", '"""Told otherwise."""\n\nthing = 1  # one\n', False),
        ("second.py", "thing = 1", False),
        ("alone.py", "unrelated = 1", False),
        ("exercises/ch98.py", "unrelated = 1", False),
        ("exercises/ch99.py", "checked = 1", False),
        ("exercises/__init__.py", "checked = 1", False),
        ("data/__init__.py", "from bnutils.data import digits\nx = 1", True),
        ("data/digits.py", "pixels = 1", False),
        ("__init__.py", "def __getattr__(name):\n    return name", False),
        ("__init__.py", "def new(name):\n    return name", True),
        ("fast/csrc/sum.h", "", False),
    ],
)
def test_a_module_counts_where_it_is_used(package, name, text, counts):
    code = "from bnutils import data, exercises, first"
    assert changed_by(package, name, text, code) == counts


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        (
            '#include <vector>\n/* told */ int sum=1+2;\n\nauto s = "a b"; // end\n',
            False,
        ),
        ('#include <vector>\nint sum = 1 + 3; auto s = "a b";\n', True),
        ('#include <vector>\nint sum = 1 + 2; auto s = "ab";\n', True),
        ('#include <string>\nint sum = 1 + 2; auto s = "a b";\n', True),
        ('#include <vector>\nint sum = 1 + 2; auto s = "a // b";\n', True),
    ],
)
def test_cpp_counts_without_its_comments_and_layout(package, text, counts):
    code = "from bnutils import fast"
    assert changed_by(package, "fast/csrc/sum.h", text, code) == counts


def test_a_new_file_of_cpp_counts(package):
    assert changed_by(package, "fast/csrc/more.cpp", "int x;", "import bnutils.fast")


@pytest.mark.parametrize(
    ("code", "counts"),
    [
        ("from bnutils import first", False),
        ("from bnutils import first\nfast = first.thing", False),
        ("from bnutils import first\nfirst.fit(engine='fused')", True),
        ("from bnutils import first\nfirst.fit(**{'epochs': 1})", False),
        ("from bnutils.fast import thing", True),
    ],
)
def test_cpp_counts_for_those_only_who_ask_for_it(package, code, counts):
    (package / "first.py").write_text("from . import fast\n\nthing = 1\n")
    assert changed_by(package, "fast/csrc/sum.h", "int other;", code) == counts


def test_the_kernel_is_loaded_by_nothing_that_a_chapter_does_not_name():
    """Else the rule of the test before would call stale outputs fresh."""
    found = {
        path.relative_to(provenance.ROOT / "bnutils").as_posix()
        for path in (provenance.ROOT / "bnutils").rglob("*.py")
        if "bnutils.fast" in provenance.imports(path.read_text("utf8"), "bnutils")
    }
    outside = {name for name in found if not name.startswith(("fast/", "exercises/"))}
    assert outside == {"train/steps.py", "__main__.py"}
    code = """if True:
        import torch
        from bnutils import data, fast, models, train
        from bnutils.fast import extension
        fast.build()
        extension.kernel = None
        train.fit(models.mlp((784, 8, 10)), data.load(), epochs=1, progress=False)
        print(extension.kernel)
    """
    env = os.environ | {"BNUTILS_DATA": "digits"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == "None"
