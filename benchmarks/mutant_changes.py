"""The changes that benchmarks/mutants.py tests: those with a name, and a sample of all that its operators make."""

import ast
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from benchmarks.mutant_table import EQUIVALENT, MODULES, NAMED

REPOSITORY = Path(__file__).resolve().parent.parent

SIGNS = {ast.And: "and", ast.Or: "or", ast.Add: "+", ast.Sub: "-", ast.Is: "is", ast.IsNot: "is not", ast.In: "in"}
SIGNS |= {ast.NotIn: "not in", ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
OPPOSITES = [("==", "!="), ("<", ">="), (">", "<="), ("is", "is not"), ("in", "not in"), ("and", "or"), ("+", "-")]
OPPOSITE = {old: new for pair in OPPOSITES for old, new in (pair, pair[::-1])}
WITH_OR_WITHOUT_EQUAL = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
SKIPPED_FIELDS = {"annotation", "returns", "decorator_list"}
SKIPPED_CALLS, SKIPPED_KEYWORDS = {"print", "set_postfix_str"}, {"repr", "flush", "unit", "desc", "mininterval"}


class Change(NamedTuple):
    """Bytes start to end of a module become other ones."""

    operator: str
    start: int
    end: int
    new: bytes


class Mutant(NamedTuple):
    """A module with one change."""

    module: str
    change: Change
    tests: tuple[str, ...]
    is_named: bool

    def code(self) -> bytes:
        source, (_, start, end, new) = read(self.module), self.change
        return source[:start] + new + source[end:]

    def lines(self) -> tuple[int, str, str]:
        """The number of the first changed line, and the lines before and after, without indentation."""
        source, (_, start, end, new) = read(self.module), self.change
        first, last = source.rfind(b"\n", 0, start) + 1, source.find(b"\n", end)
        texts = source[first:last], source[first:start] + new + source[end:last]
        return source.count(b"\n", 0, start) + 1, *("\n".join(map(str.strip, t.decode().split("\n"))) for t in texts)

    def __str__(self) -> str:
        number, *texts = self.lines()
        diff = [f"  {sign} {line}" for sign, text in zip("-+", texts, strict=True) for line in text.split("\n")]
        return "\n".join([f"{path_of(self.module)}:{number}: {self.change.operator}", *diff])


def choose(module: str, count: int, seed: int) -> list[Mutant]:
    """The named mutants of a module and a sample of its others."""
    source, chosen = read(module), []
    for name, _, old, new, tests in (named for named in NAMED if named.module == module):
        start = source.find(old.encode())
        if source.count(old.encode()) != 1:
            raise SystemExit(f"error: {path_of(module)} must have {old!r} once, for {name!r}: correct mutant_table.py")
        chosen.append(Mutant(module, Change(name, start, start + len(old.encode()), new.encode()), tests, True))
    others = [Mutant(module, each, MODULES[module], False) for each in find_changes(source) if module in MODULES]
    same = {(old, new) for name, old, new in EQUIVALENT if name == module}
    for old, new in same - {each.lines()[1:] for each in others}:
        raise SystemExit(f"error: no change of {path_of(module)} makes {old!r} {new!r}: correct mutant_table.py")
    others = [each for each in others if each.lines()[1:] not in same]
    return chosen + random.Random(f"{seed} {module}").sample(others, min(count, len(others)))


def find_changes(source: bytes) -> list[Change]:
    """Every change to a module's source that the operators make, in the order of the code."""
    starts = [0]
    for line in source.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    changes = []
    for node in _walk(ast.parse(source)):
        for operator, first, last, sign, new in _changes_of(node):
            start = starts[first.lineno - 1] + first.col_offset
            end = starts[last.end_lineno - 1] + last.end_col_offset
            if sign:  # has no place of its own: it stands between its operands, or at the beginning
                after = start if first is last else starts[first.end_lineno - 1] + first.end_col_offset
                start = source.index(sign.encode(), after)
                end = start + len(sign)
            changes.append(Change(operator, start, end, new.encode()))
    return sorted({*changes}, key=lambda change: change[1:])


def _changes_of(node: ast.AST) -> Iterator[tuple[str, ast.AST, ast.AST, str, str]]:
    """(operator, first and last node of the changed place, the sign in it that alone is changed, new text)."""
    match node:
        case ast.Compare(left, ops, comparators):
            for before, op, after in zip([left, *comparators], ops, comparators, strict=False):
                sign = SIGNS[type(op)]
                yield "comparison", before, after, sign, OPPOSITE[sign]
                if sign in WITH_OR_WITHOUT_EQUAL:
                    yield "boundary", before, after, sign, WITH_OR_WITHOUT_EQUAL[sign]
        case ast.BoolOp(op, values):
            for before, after in zip(values, values[1:], strict=False):
                yield "and/or", before, after, SIGNS[type(op)], OPPOSITE[SIGNS[type(op)]]
        case ast.BinOp(before, op, after) | ast.AugAssign(before, op, after):
            if isinstance(op, ast.Add | ast.Sub) and not (_is_text(before) or _is_text(after)):
                yield "plus/minus", before, after, SIGNS[type(op)], OPPOSITE[SIGNS[type(op)]]
        case ast.UnaryOp(ast.Not()):
            yield "not", node, node, "not", ""
        case ast.Constant(bool(value)):
            yield "flag", node, node, "", str(not value)
        case ast.Constant(int(value) | float(value)):
            step = 1 if abs(value) <= 10 else value / 2 if isinstance(value, float) else value // 2
            yield "constant", node, node, "", repr(value + step)
            yield "constant", node, node, "", repr(value - step)
        case ast.Return(ast.expr() as value) if ast.unparse(value) != "None":
            yield "return", value, value, "", "None"
        case ast.Expr(ast.Call()):
            yield "call", node, node, "", "pass"
        case ast.If(test) | ast.IfExp(test):
            yield "condition", test, test, "", "True"
            yield "condition", test, test, "", "False"
        case ast.While(test):
            yield "condition", test, test, "", "False"
        case ast.comprehension(ifs=tests):
            yield from (("condition", test, test, "", "True") for test in tests)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that may be changed; not what only says or shows something."""
    match node:
        case ast.JoinedStr() | ast.FunctionDef(name="__str__" | "__repr__") | ast.If(ast.Name("TYPE_CHECKING")):
            return
        case ast.Expr(ast.Call(ast.Name(name) | ast.Attribute(attr=name))) if name in SKIPPED_CALLS:
            return
        case ast.keyword(arg=name) if name in SKIPPED_KEYWORDS:
            return
    yield node
    for field, value in ast.iter_fields(node):
        if field not in SKIPPED_FIELDS:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _walk(child)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def path_of(module: str) -> str:
    return f"sennet_kaggle/{module}.py"


@cache
def read(module: str) -> bytes:
    """A module as it was at the start."""
    return (REPOSITORY / path_of(module)).read_bytes()
