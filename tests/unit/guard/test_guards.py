"""The source tree keeps its rules, and each guard notices when its rule is broken."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from ringkeep_testing import guards

ROOT = Path(__file__).resolve().parents[3]

GUARDS: list[Callable[[Path], list[str]]] = [
    guards.shadowing_modules,
    guards.long_modules,
    guards.long_functions,
    guards.undocumented_modules,
    guards.foreign_lock_lines,
    guards.impure_imports,
    guards.untyped_packages,
    guards.unknown_make_targets,
]


def test_a_wheel_has_every_file_of_the_web_console() -> None:
    page = ROOT / "node/ringkeep_node/http/console/page"
    packed = {Path(one.path) for one in WheelBuilder(str(ROOT)).recurse_included_files()}

    assert {path for path in page.iterdir() if path not in packed} == set()


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_the_source_tree_keeps_the_rule(guard: Callable[[Path], list[str]]) -> None:
    complaints = guard(ROOT)

    assert complaints == []


def test_at_least_85_percent_of_the_public_definitions_are_documented() -> None:
    missing, total = guards.undocumented_definitions(ROOT)

    assert total > 0
    assert 1 - len(missing) / total >= guards.DOCUMENTED_SHARE_MIN, "\n".join(missing)


def test_the_guards_look_at_real_files() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in guards.python_files(ROOT)}

    assert names >= {"core/ringkeep_core/__init__.py", "tests/unit/guard/test_guards.py"}
    assert sorted(path.name for path in ROOT.glob("requirements*.txt")) == [
        "requirements-build.txt",
        "requirements-demo.txt",
        "requirements-node.txt",
        "requirements-operator.txt",
        "requirements.txt",
    ]


def test_a_module_that_hides_the_standard_library_is_noticed(tmp_path: Path) -> None:
    root = _tree(
        tmp_path,
        {
            "operator/__init__.py": "",
            "operator/plan.py": "",
            "operator/ringkeep_operator/__init__.py": "",
            "node/queue.py": "",
            "node/ringkeep_node/queue.py": "",
        },
    )

    assert guards.shadowing_modules(root) == [
        "operator/__init__.py: no Python file may be directly in this folder",
        "operator/plan.py: no Python file may be directly in this folder",
        "node/queue.py: no Python file may be directly in this folder",
    ]


def test_an_init_file_in_a_test_folder_is_noticed_and_the_support_package_is_not(tmp_path: Path) -> None:
    root = _tree(
        tmp_path,
        {
            "tests/__init__.py": "",
            "tests/unit/core/__init__.py": "",
            "tests/support/ringkeep_testing/__init__.py": "",
            "tests/support/ringkeep_testing/sim/__init__.py": "",
        },
    )

    assert guards.shadowing_modules(root) == [
        "tests/__init__.py: no __init__.py in a test folder",
        "tests/unit/core/__init__.py: no __init__.py in a test folder",
    ]


def test_a_module_over_the_limit_is_noticed_and_one_at_the_limit_is_not(tmp_path: Path) -> None:
    root = _tree(tmp_path, {"core/a/long.py": "x = 1\n" * 701, "core/a/full.py": "x = 1\n" * 700})

    assert guards.long_modules(root) == ["core/a/long.py: 701 lines, at most 700"]


def test_a_function_over_the_limit_is_noticed_and_its_docstring_is_not_counted(tmp_path: Path) -> None:
    docstring = '    """One.\n\n    Two.\n    """\n'
    root = _tree(
        tmp_path,
        {
            "node/a/long.py": "class A:\n  async def f(self):\n" + "    x = 1\n" * 70,
            "node/a/full.py": "def g():\n" + docstring + "    x = 1\n" * 69,
        },
    )

    assert guards.long_functions(root) == ["node/a/long.py:2: f has 71 lines, at most 70"]


def test_a_module_without_a_docstring_is_noticed(tmp_path: Path) -> None:
    root = _tree(tmp_path, {"client/a/bare.py": "x = 1\n", "client/a/told.py": '"""Told."""\n', "tests/test_x.py": ""})

    assert guards.undocumented_modules(root) == ["client/a/bare.py: no docstring", "tests/test_x.py: no docstring"]


def test_a_public_definition_without_a_docstring_is_noticed_and_a_private_one_is_not(tmp_path: Path) -> None:
    text = (
        "from typing import override\n"
        "class A:\n"
        '    """Told."""\n'
        "    def __init__(self): ...\n"
        "    def bare(self): ...\n"
        "    @override\n"
        "    def told_above(self): ...\n"
        "    @property\n"
        "    def told(self):\n"
        '        """Told."""\n'
        "class _B:\n"
        "    def inside(self): ...\n"
        "async def also_bare(): ...\n"
    )
    root = _tree(tmp_path, {"core/a/m.py": text, "tests/test_m.py": "def test_x(): ...\n"})

    assert guards.undocumented_definitions(root) == (
        ["core/a/m.py:5: bare has no docstring", "core/a/m.py:13: also_bare has no docstring"],
        4,
    )


@pytest.mark.parametrize(
    "line",
    [
        "--index-url mirror.example/simple",
        "--find-links wheels",
        "# made by a tool from a path",
        "ringkeep @ file:somewhere",
        "aiohttp>=3",
        "aiohttp==3.14.5 --hash=md5:00",
        "-e .",
        "",
    ],
)
def test_a_lock_line_that_is_no_name_version_marker_or_hash_is_noticed(tmp_path: Path, line: str) -> None:
    good = "uvloop==0.1.0 ; sys_platform != 'win32' \\\n    --hash=sha256:" + "0" * 64 + "\n"
    root = _tree(tmp_path, {"requirements.txt": good + line + "\n", "requirements-demo.txt": good})

    assert guards.foreign_lock_lines(root) == [f"requirements.txt:3: {line!r} is not a name, version, marker or hash"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("import time\n", "1: import of time"),
        ("import os.path as p\n", "1: import of os.path"),
        ("from random import random\n", "1: import of random"),
        ("def f():\n    from asyncio import sleep\n", "2: import of asyncio"),
        ("if TYPE_CHECKING:\n    import socket\n", "2: import of socket"),
        ("def f():\n    return __import__('time')\n", "2: call of __import__"),
        ("import datetime\nx = datetime.datetime.now()\n", "2: call of datetime.now"),
        ("from datetime import date\nx = date.today()\n", "2: call of date.today"),
    ],
)
def test_a_clock_or_input_in_a_pure_module_is_noticed(tmp_path: Path, text: str, complaint: str) -> None:
    root = _tree(tmp_path, {"node/ringkeep_node/machines/raft/log.py": text, "node/ringkeep_node/runtime/udp.py": text})

    assert guards.impure_imports(root) == [f"node/ringkeep_node/machines/raft/log.py:{complaint} in a pure module"]


def test_a_clock_in_what_decides_for_the_operator_is_noticed_and_not_in_what_acts(tmp_path: Path) -> None:
    files = {f"operator/ringkeep_operator/{name}.py": "import time\n" for name in ("plan", "kube")}

    assert guards.impure_imports(_tree(tmp_path, files)) == [
        "operator/ringkeep_operator/plan.py:1: import of time in a pure module"
    ]


def test_an_own_module_with_the_name_of_an_impure_one_is_no_impurity(tmp_path: Path) -> None:
    root = _tree(tmp_path, {"core/ringkeep_core/a.py": "from . import time\nfrom .random import x\nimport math\n"})

    assert guards.impure_imports(root) == []


def test_a_package_that_is_not_marked_as_typed_is_noticed(tmp_path: Path) -> None:
    root = _tree(
        tmp_path,
        {
            "core/typed/__init__.py": "",
            "core/typed/py.typed": "",
            "node/bare/__init__.py": "",
            "node/bare/x/__init__.py": "",
        },
    )

    assert guards.untyped_packages(root) == ["node/bare: no py.typed"]


def test_a_document_that_names_a_command_the_makefile_does_not_have_is_noticed(tmp_path: Path) -> None:
    root = _tree(
        tmp_path,
        {
            "Makefile": "test: venv  ## x\n\t@true\n",
            "README.md": "`make test`\n`KEEP=1 make fly` and `WORKERS=2 make test`\n",
        },
    )

    assert guards.unknown_make_targets(root) == ["README.md:2: the Makefile has no target fly"]
