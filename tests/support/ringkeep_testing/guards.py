"""Rules of the source tree that no tool we use checks, as functions over a root folder.

Each guard takes the root of a tree and returns its complaints, one sentence with a relative path each, in a stable
order; an empty list means that the rule is kept. They are functions over a root, so that each can be tested on a small
tree that breaks its rule. Hidden folders and caches are not looked at.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PRODUCT_FOLDERS = ("core", "node", "client", "operator")
SOURCE_FOLDERS = (*PRODUCT_FOLDERS, "tests", "benchmarks")
PURE_FOLDERS = ("core/ringkeep_core", "node/ringkeep_node/machines")
# The deciding half of the operator shares a folder with the half that acts.
# fmt: off
PURE_MODULES = (
    "bootstrap", "children", "conditions", "drift", "manifests", "naming", "plan", "recovery", "rollout", "scaling",
    "shards", "shown", "state", "view", "wanted",
)
# fmt: on

MODULE_LINES_MAX = 700
FUNCTION_LINES_MAX = 70
DOCUMENTED_SHARE_MIN = 0.85

# The folders whose names are those of standard library modules, or would hide one, as top-level imports.
_NO_LOOSE_MODULES = ("operator", "node")
_TEST_PACKAGE = Path("tests/support/ringkeep_testing")

# Input and output, clocks, randomness, threads, and the ways around an import statement.
# fmt: off
IMPURE_MODULES = frozenset(
    {
        "aiohttp", "apsw", "asyncio", "concurrent", "http", "importlib", "logging", "multiprocessing", "os",
        "pathlib", "prometheus_client", "random", "secrets", "select", "selectors", "shutil", "signal",
        "socket", "sqlite3", "ssl", "structlog", "subprocess", "tempfile", "threading", "time", "urllib",
        "uuid", "uvloop",
    }
)
# fmt: on
PURE_PARTS = frozenset({"urllib.parse"})
"""Parts of those that only take texts apart."""
_CLOCK_CALLS = frozenset(
    {("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today"), ("builtins", "__import__")}
)

_LOCK_LINE = re.compile(
    r"[a-z0-9][a-z0-9._-]*==[0-9][A-Za-z0-9.+!_-]*( ; [A-Za-z_0-9'\"<>=!.() -]+)?( \\)?"  # a name, a version, a marker
    r"|    --hash=sha256:[0-9a-f]{64}( \\)?"
)


class _Function:
    """One function or method: where it is and how long it is without its docstring."""

    def __init__(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.name, self.line = node.name, node.lineno
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            lines -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
        self.lines = lines


def python_files(root: Path, folders: tuple[str, ...] = SOURCE_FOLDERS) -> list[Path]:
    """Return our Python files below ``folders`` of ``root``, sorted; hidden folders and caches are left out."""
    found = (path for folder in folders for path in (root / folder).rglob("*.py"))
    return sorted(path for path in found if not _is_foreign(path.relative_to(root)))


def shadowing_modules(root: Path) -> list[str]:
    """Complain of modules that hide the standard library or break test collection by where they are.

    ``operator/__init__.py`` or a top-level module beside it makes ``import collections`` fail for whoever starts
    Python in that folder; an ``__init__.py`` in a test folder makes equal test file names clash.
    """
    loose = [path for folder in _NO_LOOSE_MODULES for path in sorted((root / folder).glob("*.py"))]
    marks = [
        path
        for path in python_files(root, ("tests",))
        if path.name == "__init__.py" and not path.relative_to(root).is_relative_to(_TEST_PACKAGE)
    ]
    return [f"{_name(root, path)}: no Python file may be directly in this folder" for path in loose] + [
        f"{_name(root, path)}: no __init__.py in a test folder" for path in marks
    ]


def long_modules(root: Path) -> list[str]:
    """Complain of modules with more than ``MODULE_LINES_MAX`` lines."""
    counted = [(path, len(path.read_text(encoding="utf-8").splitlines())) for path in python_files(root)]
    return [
        f"{_name(root, path)}: {lines} lines, at most {MODULE_LINES_MAX}"
        for path, lines in counted
        if lines > MODULE_LINES_MAX
    ]


def long_functions(root: Path) -> list[str]:
    """Complain of functions with more than ``FUNCTION_LINES_MAX`` lines, their docstring not counted."""
    return [
        f"{_name(root, path)}:{function.line}: {function.name} has {function.lines} lines, at most {FUNCTION_LINES_MAX}"
        for path in python_files(root)
        for function in _functions(_parse(path))
        if function.lines > FUNCTION_LINES_MAX
    ]


def undocumented_modules(root: Path) -> list[str]:
    """Complain of modules that do not open with a docstring."""
    return [f"{_name(root, path)}: no docstring" for path in python_files(root) if not ast.get_docstring(_parse(path))]


def undocumented_definitions(root: Path) -> tuple[list[str], int]:
    """Return the public definitions of the product without a docstring, and how many public definitions there are.

    Public are classes, functions and methods whose name, and whose class's name, has no leading underscore. Overloads
    and methods that override with ``@override`` are documented where they are declared first.
    """
    missing, total = [], 0
    for path in python_files(root, PRODUCT_FOLDERS):
        for node in _public_definitions(_parse(path).body):
            total += 1
            if not ast.get_docstring(node):
                missing.append(f"{_name(root, path)}:{node.lineno}: {node.name} has no docstring")
    return missing, total


def foreign_lock_lines(root: Path) -> list[str]:
    """Complain of lock lines that are anything but a name, a version, a marker or a hash.

    An address, a path of a machine or an index option in a lock would tie it to where it was made.
    """
    return [
        f"{path.name}:{number}: {line!r} is not a name, version, marker or hash"
        for path in sorted(root.glob("requirements*.txt"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if not _LOCK_LINE.fullmatch(line)
    ]


def impure_imports(root: Path) -> list[str]:
    """Complain of imports of I/O, clocks or randomness in pure packages, those inside functions included."""
    return [
        f"{_name(root, path)}:{line}: {what} in a pure module"
        for path in (*python_files(root, PURE_FOLDERS), *_pure_modules(root))
        for line, what in _impurities(_parse(path))
    ]


def untyped_packages(root: Path) -> list[str]:
    """Complain of top-level packages of the product without the mark that says they are typed."""
    packages = sorted(path.parent for folder in PRODUCT_FOLDERS for path in (root / folder).glob("*/__init__.py"))
    return [f"{_name(root, package)}: no py.typed" for package in packages if not (package / "py.typed").is_file()]


def unknown_make_targets(root: Path) -> list[str]:
    """Complain of ``make`` commands that a document at the root names and the Makefile does not have."""
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    return [
        f"{path.name}:{number}: the Makefile has no target {target}"
        for path in sorted(root.glob("*.md"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        for target in re.findall(r"`(?:[A-Z_0-9]+=\S+ )*make ([a-z][a-z0-9-]*)", line)
        if target not in targets
    ]


def _pure_modules(root: Path) -> list[Path]:
    paths = (root / f"operator/ringkeep_operator/{name}.py" for name in PURE_MODULES)
    return [path for path in paths if path.is_file()]


def _is_foreign(relative: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in relative.parts)


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=path.name)


def _functions(tree: ast.Module) -> list[_Function]:
    return [_Function(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _public_definitions(body: list[ast.stmt]) -> Iterator[_Definition]:
    for node in body:
        if not isinstance(node, _Definition) or node.name.startswith("_"):
            continue
        decorators = {_last_name(decorator) for decorator in node.decorator_list}
        if decorators & {"overload", "override", "setter"}:
            continue
        yield node
        if isinstance(node, ast.ClassDef):
            yield from _public_definitions(node.body)


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        return _last_name(node.func)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _impurities(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        elif isinstance(node, ast.Call):
            if call := _clock_call(node.func):
                yield node.lineno, f"call of {call}"
            continue
        else:
            continue
        for name in names:
            if name.split(".")[0] in IMPURE_MODULES and name not in PURE_PARTS:
                yield node.lineno, f"import of {name}"


def _clock_call(function: ast.expr) -> str | None:
    if isinstance(function, ast.Name):
        return function.id if ("builtins", function.id) in _CLOCK_CALLS else None
    if isinstance(function, ast.Attribute) and (_last_name(function.value), function.attr) in _CLOCK_CALLS:
        return f"{_last_name(function.value)}.{function.attr}"
    return None
