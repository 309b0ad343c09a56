"""The bugs that tests/mutation.py plants: small changes of a module's syntax tree.

Operators, constants, conditions, arguments, statements, guards like ``no_grad`` and
calls like ``.detach()``; texts, annotations and ``__all__`` are left alone.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator

PAIRS = [  # each for the other
    (ast.Add, ast.Sub),
    (ast.Mult, ast.Div),
    (ast.And, ast.Or),
    (ast.BitOr, ast.BitAnd),
    (ast.Lt, ast.LtE),
    (ast.Gt, ast.GtE),
    (ast.Eq, ast.NotEq),
    (ast.Is, ast.IsNot),
    (ast.In, ast.NotIn),
]
SWAPS = dict.fromkeys((ast.FloorDiv, ast.Mod, ast.Pow), ast.Mult)
SWAPS |= dict(PAIRS) | {other: one for one, other in PAIRS}
TEXT = {"annotation", "returns", "decorator_list"}  # left alone, as strings are
REMOVABLE = {"detach", "clone", "copy", "contiguous", "float", "double", "to", "eval"}
REMOVABLE |= {"abs", "sqrt", "square", "flatten", "view", "reshape", "expand", "add"}
REMOVABLE |= {"mul", "train", "strip", "lower", "rsqrt", "clamp", "clamp_min"}
GUARDS = ("no_grad", "inference_mode", "enable_grad")


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    """What a careless author might have written in the place of a node."""
    match node:
        case ast.BinOp() | ast.BoolOp() | ast.AugAssign() if type(node.op) in SWAPS:
            yield changed(node, op=SWAPS[type(node.op)]())
        case ast.Compare():
            for i, op in enumerate(node.ops):
                ops = [*node.ops[:i], SWAPS[type(op)](), *node.ops[i + 1 :]]
                yield changed(node, ops=ops)
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.Constant(value=bool()):
            yield changed(node, value=not node.value)
        case ast.Constant(value=int() | float()):
            yield changed(node, value=node.value + 1)
            yield changed(node, value=node.value - 1)
        case ast.Call():
            for i in range(len(node.keywords)):
                keywords = node.keywords[:i] + node.keywords[i + 1 :]
                yield changed(node, keywords=keywords)
            if len(node.args) > 1:
                yield changed(node, args=node.args[:-1])
            if isinstance(node.func, ast.Attribute) and node.func.attr in REMOVABLE:
                yield node.func.value
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        if not isinstance(node.test, ast.Compare | ast.UnaryOp):
            yield changed(node, test=ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.FunctionDef):
        for i, decorator in enumerate(node.decorator_list):
            if any(name in ast.unparse(decorator) for name in GUARDS):
                rest = node.decorator_list[:i] + node.decorator_list[i + 1 :]
                yield changed(node, decorator_list=rest)
    if isinstance(node, ast.With) and not any(i.optional_vars for i in node.items):
        yield ast.If(ast.Constant(value=True), node.body, [])
    yield from without(node)


def without(node: ast.AST) -> Iterator[ast.AST]:
    """The statement left out, where that is not an error of syntax or names."""
    match node:
        case ast.Expr(value=ast.Constant()):  # a docstring
            return
        case ast.Expr() | ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
        case ast.Return(value=ast.expr()) if ast.unparse(node) != "return None":
            yield ast.Return(value=None)


def changed(node: ast.AST, **fields) -> ast.AST:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def slots(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Every place (parent, field, index) in a tree and the node that stands there."""
    for field, value in ast.iter_fields(node):
        if field in TEXT:
            continue
        for i, child in enumerate(value if isinstance(value, list) else [value]):
            listing = isinstance(child, ast.stmt) and "__all__" in ast.unparse(child)
            if isinstance(child, ast.AST) and not listing:
                yield node, field, (i if isinstance(value, list) else None), child
                if not isinstance(child, ast.JoinedStr):
                    yield from slots(child)


def mutants(source: str) -> Iterator[tuple[int, str, ast.Module]]:
    """Line, description and tree of each mutant."""
    tree = ast.parse(source)
    for parent, field, index, node in list(slots(tree)):
        for new in replacements(node):
            ast.copy_location(new, node)
            put(parent, field, index, new)
            mutant = ast.fix_missing_locations(copy.deepcopy(tree))
            put(parent, field, index, node)
            before, after = (
                " ".join(ast.unparse(n).split("\n")[:2]) for n in (node, new)
            )
            yield node.lineno, f"{before}  ->  {after}", mutant


def put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node
