"""The mutants of one module: each differs from it in one place.

Operators:

- `compare`: an operator of a comparison becomes its negation; one of order also gains
  or loses equality.
- `boolean`: an operand of `and` or `or` is left out, a `not` is left out, and any other
  condition is negated.
- `constant`: a number is one more, True is False, and a text or bytes gain an X.
- `drop`: a simple statement becomes `pass`.
- `return`: a function returns before its first statement.

What is not mutated, and why:

- docstrings, `__all__` and `__slots__`, annotations, type variables and aliases, the
  type given to `cast`, overloads, protocols, and blocks for type checkers: type checkers
  check these;
- `frozen`, `slots` and `kw_only` of a dataclass, for the same reason;
- `assert`, `assert_never` and `raise AssertionError`: they state what cannot happen;
- the texts of raised exceptions and of log lines: they are for readers, and a test
  compares the part that matters;
- texts given to a call as `help`, `description` or `epilog`, as to argparse: they are
  for readers;
- the last argument of a `Row` of verdicts: it names the source of the row, and only
  people read it;
- None and `...`: there is no other value of the same type;
- the inside of an f-string: Python 3.11 does not report its position. The whole f-string
  gains an X instead;
- `return` or `return None` at the end of a function: it changes nothing there;
- an assignment to a name that has no other binding in its function, and statements of
  a module or a class other than calls: without them, every use of the name fails.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

COMPARE: dict[type[ast.cmpop], tuple[str, ...]] = {
    ast.Lt: (">=", "<="),
    ast.LtE: (">", "<"),
    ast.Gt: ("<=", ">="),
    ast.GtE: ("<", ">"),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
}
OPERATOR = re.compile(r"<=|>=|==|!=|<|>|\bis\s+not\b|\bis\b|\bnot\s+in\b|\bin\b")

FOR_TYPE_CHECKERS = {"TypeVar", "NewType", "ParamSpec"}
UNREACHABLE = {"AssertionError", "NotImplementedError", "assert_never"}
OF_DATACLASSES = {"frozen", "slots", "kw_only"}
NAMES_ONLY = {"__all__", "__slots__", "__match_args__"}
OF_HELP = {"help", "description", "epilog"}
LOG_LEVELS = {"debug", "info", "warning", "error", "exception", "log"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Positioned = ast.stmt | ast.expr


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one module.

    Attributes:
        scope: the dotted name of the function or class that has it, or `-`.
        old: the lines that it changes, joined into one line.
        new: the changed lines, joined likewise.
        start, end: the range of bytes in the source that `text` replaces.
    """

    module: str
    scope: str
    operator: str
    old: str
    new: str
    start: int
    end: int
    text: str

    def __str__(self) -> str:
        head = f"{self.module} {self.scope} {self.operator}"
        return f"{head}\n- {self.old}\n+ {self.new}"

    def apply(self, source: bytes) -> bytes:
        """Return the source with the change."""
        return source[: self.start] + self.text.encode() + source[self.end :]


def mutants_of(module: str, source: bytes) -> list[Mutant]:
    """Return all mutants of a module, in the order of its lines."""
    found = list(_Mutator(module, source).mutants(ast.parse(source)))
    return sorted(found, key=lambda each: each.start)


class _Mutator:
    def __init__(self, module: str, source: bytes) -> None:
        self._module = module
        self._source = source
        lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in lines:
            self._starts.append(self._starts[-1] + len(line))
        self._scopes: list[str] = []
        self._bindings: list[Counter[str]] = []
        self._ends: list[ast.stmt] = []

    def mutants(self, node: ast.AST) -> Iterator[Mutant]:
        """Yield the mutants of a node, and of all that is below it."""
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from self._of_function(node)
            case ast.ClassDef():
                yield from self._of_class(node)
            case ast.stmt() if not is_excluded(node):
                yield from self._of_statement(node)
            case ast.expr():
                yield from self._of_expression(node)
            case ast.stmt():
                pass
            case _:
                yield from self._below(node)

    def _below(self, node: ast.AST) -> Iterator[Mutant]:
        for child in children(node):
            yield from self.mutants(child)

    def _of_class(self, node: ast.ClassDef) -> Iterator[Mutant]:
        if any("Protocol" in ast.unparse(base) for base in node.bases):
            return
        self._scopes.append(node.name)
        yield from self._below(node)
        self._scopes.pop()

    def _of_function(self, node: Function) -> Iterator[Mutant]:
        if any(ast.unparse(each) == "overload" for each in node.decorator_list):
            return
        self._scopes.append(node.name)
        self._bindings.append(bindings(node))
        first, *others = without_docstring(node.body) or [ast.Pass()]
        if others or hasattr(first, "body"):
            start = self._offset(first.lineno, first.col_offset)
            yield self._mutant("return", start, start, self._indented(first))
        self._ends.append(node.body[-1])
        yield from self._below(node)
        self._bindings.pop()
        self._scopes.pop()

    def _of_statement(self, node: ast.stmt) -> Iterator[Mutant]:
        if self._is_dropped(node):
            yield self._replaced("drop", node, "pass")
        if isinstance(node, ast.If | ast.While):
            yield from self._of_condition(node.test)
        yield from self._below(node)

    def _is_dropped(self, node: ast.stmt) -> bool:
        match node:
            case ast.Expr():
                return not isinstance(node.value, ast.Constant)
            case ast.Return(value=None | ast.Constant(value=None)):
                return node not in self._ends
            case ast.Return() | ast.Raise() | ast.Continue() | ast.Break():
                return True
            case ast.Assign() | ast.AugAssign() | ast.AnnAssign() | ast.Delete():
                if not self._bindings or getattr(node, "value", node) is None:
                    return False
                names = [each for each in targets(node) if isinstance(each, ast.Name)]
                bound = self._bindings[-1]
                return not names or (
                    not isinstance(node, ast.Delete)
                    and all(bound[each.id] > 1 for each in names)
                )
        return False

    def _of_expression(self, node: ast.expr) -> Iterator[Mutant]:
        match node:
            case ast.Compare():
                yield from self._of_compare(node)
            case ast.BoolOp():
                word = " and " if isinstance(node.op, ast.And) else " or "
                for left_out in node.values:
                    kept = [self._text(x) for x in node.values if x is not left_out]
                    yield self._replaced("boolean", node, f"({word.join(kept)})")
            case ast.UnaryOp(op=ast.Not()):
                yield self._replaced("boolean", node, self._text(node.operand))
            case ast.IfExp():
                yield from self._of_condition(node.test)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                for generator in node.generators:
                    for condition in generator.ifs:
                        yield from self._of_condition(condition)
            case ast.Constant() if (text := mutated_constant(node.value)) is not None:
                yield self._replaced("constant", node, text)
            case ast.JoinedStr():
                whole = self._text(node)
                yield self._replaced("constant", node, f"({whole} + 'X')")
                return
        yield from self._below(node)

    def _of_condition(self, test: ast.expr) -> Iterator[Mutant]:
        match test:
            case ast.Compare() | ast.BoolOp() | ast.Constant():
                pass
            case ast.UnaryOp(op=ast.Not()):
                pass
            case _ if not mentions(test, {"TYPE_CHECKING"}):
                yield self._replaced("boolean", test, f"(not {self._text(test)})")

    def _of_compare(self, node: ast.Compare) -> Iterator[Mutant]:
        operands = [node.left, *node.comparators]
        for left, op, right in zip(operands, node.ops, operands[1:], strict=False):
            _, start = self._span(left)
            end, _ = self._span(right)
            between = self._source[start:end].decode()
            for new in COMPARE[type(op)]:
                text = OPERATOR.sub(new, between, count=1)
                yield self._mutant("compare", start, end, text)

    def _replaced(self, operator: str, node: Positioned, text: str) -> Mutant:
        return self._mutant(operator, *self._span(node), text)

    def _mutant(self, operator: str, start: int, end: int, text: str) -> Mutant:
        first = self._source.rfind(b"\n", 0, start) + 1
        last = end + len(self._source[end:].partition(b"\n")[0])
        lines = self._source[first:last].decode()
        after = self._source[first:start].decode() + text
        after += self._source[end:last].decode()
        old, new = (" ".join(each.split()) for each in (lines, after))
        scope = ".".join(self._scopes) or "-"
        return Mutant(self._module, scope, operator, old, new, start, end, text)

    def _indented(self, first: ast.stmt) -> str:
        return "return\n" + " " * first.col_offset

    def _text(self, node: Positioned) -> str:
        start, end = self._span(node)
        return f"({self._source[start:end].decode()})"

    def _span(self, node: Positioned) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._offset(node.lineno, node.col_offset),
            self._offset(node.end_lineno, node.end_col_offset),
        )

    def _offset(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column


def mutated_constant(value: object) -> str | None:
    """Return another constant of the same type, as source, or None if there is none."""
    match value:
        case bool():
            return repr(not value)
        case int() | float():
            return repr(value + 1)
        case str():
            return repr(value + "X")
        case bytes():
            return repr(value + b"X")
    return None


def children(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is below a node, without what is not mutated."""
    skipped: list[ast.AST | None] = []
    match node:
        case ast.arg() | ast.AnnAssign():
            skipped = [node.annotation]
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            skipped = [node.returns]
        case ast.Call(func=ast.Name(id="cast")):
            skipped = [node.args[0]]
        case ast.Call(func=ast.Name(id="dataclass")):
            skipped = [each for each in node.keywords if each.arg in OF_DATACLASSES]
        case ast.Call(func=ast.Name(id="Row")):
            skipped = [node.args[-1]]
        case ast.keyword(arg=name) if name in OF_HELP:
            skipped = [text_of(node.value)]
        case ast.Call(func=ast.Attribute(attr=level)) if level in LOG_LEVELS:
            skipped = [*map(text_of, node.args)]
        case ast.Raise(exc=ast.Call() as call):
            arguments = [*call.args, *(each.value for each in call.keywords)]
            yield from (each for each in arguments if text_of(each) is None)
            return
    yield from (each for each in ast.iter_child_nodes(node) if each not in skipped)


def text_of(node: ast.expr) -> ast.expr | None:
    """Return the node if it is a text, and None otherwise."""
    match node:
        case ast.JoinedStr() | ast.Constant(value=str()):
            return node
    return None


def is_excluded(node: ast.stmt) -> bool:
    """Return whether a statement is not mutated."""
    match node:
        case ast.Assert() | ast.Import() | ast.ImportFrom():
            return True
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Expr(value=ast.Call(func=made)) | ast.Raise(exc=ast.Call(func=made)):
            return mentions(made, UNREACHABLE)
        case ast.Raise(exc=ast.Name(id=name)):
            return name in UNREACHABLE
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name in NAMES_ONLY or (
                isinstance(value, ast.Call) and mentions(value.func, FOR_TYPE_CHECKERS)
            )
        case ast.AnnAssign():
            return mentions(node.annotation, {"TypeAlias"})
    return False


def mentions(node: ast.AST, names: set[str]) -> bool:
    """Return whether an expression contains one of the names."""
    return any(isinstance(x, ast.Name) and x.id in names for x in ast.walk(node))


def targets(node: ast.stmt) -> list[ast.expr]:
    """Return the targets that a statement binds; a tuple gives each of its elements."""
    found = getattr(node, "targets", None) or [getattr(node, "target", None)]
    return [
        x
        for each in found
        for x in (each.elts if isinstance(each, ast.Tuple | ast.List) else [each])
        if x is not None
    ]


def bindings(function: Function) -> Counter[str]:
    """Return how often a function binds each name; its parameters count."""
    found: Counter[str] = Counter()
    for node in ast.walk(function):
        match node:
            case ast.arg():
                found[node.arg] += 1
            case ast.Name(ctx=ast.Store()):
                found[node.id] += 1
            case ast.Nonlocal() | ast.Global():
                found.update(node.names)
    return found


def without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    """Return the statements of a body without its docstring."""
    match body:
        case [ast.Expr(value=ast.Constant(value=str())), *rest]:
            return rest
    return body
