"""`make mutants`: its operators, its list, and its report on a small package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest

from tests.mutants import forks, run, survivors
from tests.mutants.operators import mutants_of
from tests.mutants.project import OURS, Project
from tests.unit.test_layering import SANS_IO


def changes(source: str) -> set[tuple[str, str, str]]:
    text = dedent(source).encode()
    mutants = mutants_of("module", text)
    for mutant in mutants:
        compile(mutant.apply(text), "module", "exec", dont_inherit=True)
    return {(each.operator, each.old, each.new) for each in mutants}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a < b", {"x = a >= b", "x = a <= b"}),
        ("x = a >= b", {"x = a < b", "x = a > b"}),
        ("x = a == b != c", {"x = a != b != c", "x = a == b == c"}),
        ("x = a is not b", {"x = a is b"}),
        ("x = (a) not in (b)", {"x = (a) in (b)"}),
    ],
)
def test_compare(source: str, expected: set[str]) -> None:
    assert changes(source) == {("compare", source, new) for new in expected}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a and b", {"x = ((b))", "x = ((a))"}),
        ("x = not a", {"x = (a)"}),
        ("x = b if a else c", {"x = b if (not (a)) else c"}),
        ("x = [a for a in b if a]", {"x = [a for a in b if (not (a))]"}),
    ],
)
def test_boolean(source: str, expected: set[str]) -> None:
    assert changes(source) == {("boolean", source, new) for new in expected}


def test_conditions_of_statements() -> None:
    source = "if a:\n    pass\nwhile a:\n    pass\nif not a:\n    pass\n"
    assert changes(source) == {
        ("boolean", "if a:", "if (not (a)):"),
        ("boolean", "while a:", "while (not (a)):"),
        ("boolean", "if not a:", "if (a):"),
    }


@pytest.mark.parametrize(
    ("source", "new"),
    [
        ("x = 0", "x = 1"),
        ("x = -1.5", "x = -2.5"),
        ("x = True", "x = False"),
        ("x = 'a'", "x = 'aX'"),
        ("x = b''", "x = b'X'"),
        ("x = f'a{1}'", "x = ((f'a{1}') + 'X')"),
    ],
)
def test_constant(source: str, new: str) -> None:
    assert changes(source) == {("constant", source, new)}


def test_statements_of_a_function() -> None:
    source = """
    def function(a):
        "What it does."
        only = a
        a = only
        a.attribute = only
        a[only] += only
        del a.attribute
        for b in a:
            call(b)
            continue
        return only
    """
    dropped = (
        *("a = only", "a.attribute = only", "a[only] += only", "del a.attribute"),
        *("call(b)", "continue", "return only"),
    )
    assert changes(source) == {
        *(("drop", each, "pass") for each in dropped),
        ("return", "only = a", "return only = a"),
    }


def test_a_function_of_one_statement_returns_early_without_it() -> None:
    source = "def function(a):\n    a.x = a"
    assert changes(source) == {("drop", "a.x = a", "pass")}


@pytest.mark.parametrize(
    "source",
    [
        "'A docstring.'",
        "__all__ = ['name']",
        "T = TypeVar('T')",
        "Names: TypeAlias = Literal['a', 'b']",
        "x: Literal['a'] = None",
        "def function(a: Literal['a']) -> Literal['b']: ...",
        "x = cast('list[int]', y)",
        "if TYPE_CHECKING:\n    x = 1",
        "class A(Protocol):\n    x = 1",
        "@overload\ndef function(a=1): ...",
        "@dataclass(frozen=True, slots=True)\nclass A: ...",
        "assert x == 1, 'text'",
        "def function():\n    raise AssertionError(f'{x} is {1}')",
        "def function():\n    assert_never(1)",
        "Row(a, b, f'source of {a}')",
        "x = None",
    ],
)
def test_what_is_not_mutated(source: str) -> None:
    assert {each for each in changes(source) if each[0] != "drop"} == set()


def test_a_return_of_nothing_at_the_end() -> None:
    source = "def f(a):\n    while a:\n        break\n    {end}"
    for end in ("return", "return None"):
        dropped = {
            each for each in changes(source.format(end=end)) if each[0] == "drop"
        }
        assert dropped == {("drop", "break", "pass")}


def test_texts_for_readers() -> None:
    source = (
        "def f():\n    raise Error('text', 1)\n    log.info('text %s', 1)\n    g('t')\n"
        "    add('--flag', help='text', metavar='M')\n"
        "    Parser(description='text', epilog=f'text {1}')\n"
        "    add(help='text' if a == b else c)"
    )
    assert {new for operator, _, new in changes(source) if operator == "constant"} == {
        "raise Error('text', 2)",
        "log.info('text %s', 2)",
        "g('tX')",
        "add('--flagX', help='text', metavar='M')",
        "add('--flag', help='text', metavar='MX')",
        # One that depends on a condition is mutated.
        "add(help='textX' if a == b else c)",
    }


def test_the_lines_that_are_changed_are_one() -> None:
    source = b"class A:\n    def f(self):\n        return (\n            a\n            < b)\n"
    first, *_ = (x for x in mutants_of("m", source) if x.operator == "compare")
    assert str(first) == "m A.f compare\n- a < b)\n+ a >= b)"


ENTRY = "m f compare\n- a < b\n+ a <= b\n  They are never\n  equal.\n"


def test_a_list_of_survivors() -> None:
    (survivor,) = survivors.parse(f"# A comment.\n\n{ENTRY}\n")
    assert survivor.module == "m"
    assert survivor.mutant == "m f compare\n- a < b\n+ a <= b"
    assert survivor.reason == "They are never equal."


@pytest.mark.parametrize(
    "text",
    [
        f"{ENTRY}\n{ENTRY}",
        "m f compare\n- a < b\n+ a <= b\n",
        "m f compare\n- a < b\n  A reason.\n",
        ENTRY + ENTRY,
    ],
)
def test_a_malformed_list(text: str) -> None:
    with pytest.raises(survivors.MistakeError):
        survivors.parse(text)


def test_the_modules_are_those_without_io_and_their_tests_are_there() -> None:
    assert sorted(OURS.tests) == sorted(SANS_IO)
    files = {OURS.root / test for tests in OURS.tests.values() for test in tests}
    assert [file for file in files if not file.is_file()] == []
    assert OURS.environment.keys() <= OURS.tests.keys()


@pytest.mark.parametrize("module", SANS_IO)
def test_the_survivors_of_a_module_are_still_there(module: str) -> None:
    entries = [each for each in OURS.listed() if each.module == module]
    assert survivors.stale(entries, OURS.mutants(module)) == []


def test_survivors_are_those_of_modules() -> None:
    assert {each.module for each in OURS.listed()} <= set(SANS_IO)


MODULE = """
def last(count):
    while count > 1:
        count -= 1
    return count
"""
TESTS = """
from tiny.core import last

def test_last():
    assert last(3) == 1
"""
SURVIVOR = "core last constant\n- count -= 1\n+ count -= 2"
ENDLESS = "core last drop\n- count -= 1\n+ pass"
CAUGHT = "core last drop\n- return count\n+ pass"
GONE = "core last drop\n- return 0\n+ pass"


@pytest.fixture
def tiny(tmp_path: Path) -> Project:
    for name, text in (
        ("tiny/__init__.py", ""),
        ("tiny/core.py", MODULE),
        ("tiny/red.py", ""),
        ("tiny/loaded.py", "import importlib\nx = importlib.import_module('json')\n"),
        ("tests/test_core.py", TESTS),
        ("tests/test_loaded.py", "def test_it():\n    pass\n"),
        ("tests/test_red.py", "def test_it():\n    assert False\n"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return Project(
        root=tmp_path,
        package="tiny",
        copied=("tiny", "tests"),
        tests={
            "core": ("tests/test_core.py",),
            "loaded": ("tests/test_loaded.py",),
            "red": ("tests/test_red.py",),
        },
        listing=tmp_path / "survivors.txt",
        margin=60.0,
    )


def outcomes(project: Project, *only: str) -> dict[str, str]:
    found = run.verdicts(project, ["core"], 2, only)
    return {str(verdict.mutant): verdict.outcome for verdict in found}


def test_mutants_are_caught_by_red_tests_or_survive(tiny: Project) -> None:
    found = outcomes(tiny, " compare\n", " constant\n", " return\n", "- return")
    others = found.keys() - {SURVIVOR}
    assert found == {SURVIVOR: forks.GREEN, **dict.fromkeys(others, forks.RED)}
    assert CAUGHT in others
    assert ENDLESS not in others


def test_mutants_without_end_are_caught_by_time(tiny: Project) -> None:
    hasty = replace(tiny, margin=1.0)
    assert outcomes(hasty, "drop\n- count") == {ENDLESS: forks.LATE}


def verdicts_of(project: Project) -> list[run.Verdict]:
    """Return the verdicts that the tests would give, without running them."""
    known = {SURVIVOR: forks.GREEN, ENDLESS: forks.LATE}
    return [
        run.Verdict(mutant, known.get(str(mutant), forks.RED))
        for mutant in project.mutants("core")
    ]


def test_a_survivor_that_is_not_listed_is_reported(
    tiny: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not run.report(tiny, ["core"], verdicts_of(tiny))
    printed = capsys.readouterr().out
    assert f"survived:\n{SURVIVOR}\n" in printed
    assert f"time limit, :\n{ENDLESS}\n" in printed


def test_a_listed_survivor_is_not_reported(
    tiny: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.listing.write_text(f"{SURVIVOR}\n  The test asks for odd numbers only.\n")
    assert run.report(tiny, ["core"], verdicts_of(tiny))
    assert "survived:" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("mutant", "what"), [(CAUGHT, "but caught"), (GONE, "but no longer there")]
)
def test_an_entry_that_is_wrong_is_reported(
    tiny: Project, mutant: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.listing.write_text(f"{SURVIVOR}\n  Why.\n\n{mutant}\n  Why.\n")
    assert not run.report(tiny, ["core"], verdicts_of(tiny))
    assert f"listed, {what}:\n{mutant}\n" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["loaded", "red"])
def test_tests_that_cannot_be_run_catch_nothing(tiny: Project, module: str) -> None:
    with pytest.raises(run.HarnessError, match=module):
        list(run.verdicts(tiny, [module]))
