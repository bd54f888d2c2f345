"""What the loop of a forward rule needs no statement of its own for: repetitions, products that are added, stacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from recdsl.program.ir import Add, Load, Op, Stmt, Store


def renamed(body: Sequence[Stmt]) -> tuple[Stmt, ...]:
    """The body without renamings: axes have no names in PyTorch."""
    origin: dict[str, str] = {}
    made: list[Stmt] = []
    for statement in body:
        if isinstance(statement, Op):
            args = tuple(origin.get(arg, arg) for arg in statement.args)
            if statement.op == "rename":
                origin[statement.results[0]] = args[0]
                continue
            statement = replace(statement, args=args)
        elif isinstance(statement, Store | Add):
            statement = replace(statement, value=origin.get(statement.value, statement.value))
        made.append(statement)
    return tuple(made)


ELEMENTWISE = ("mul", "add", "sub", "div")


def readers(body: Sequence[Stmt]) -> dict[str, list[Stmt]]:
    """Who reads each value."""
    found: dict[str, list[Stmt]] = {}
    for statement in body:
        args = statement.args if isinstance(statement, Op) else ()
        for name in (*args, *((statement.value,) if isinstance(statement, Store | Add) else ())):
            found.setdefault(name, []).append(statement)
    return found


def thin(body: Sequence[Stmt]) -> set[str]:
    """Repetitions read only by ops that repeat by themselves, and whose other operand has what is missing."""
    users = readers(body)
    covered = {s.results[0]: set(dict(s.attrs)["at"]) for s in body if isinstance(s, Op) and s.op == "broadcast"}
    found: set[str] = set()
    for name in covered:
        if all(isinstance(user, Op) and _covers(user, name, covered) for user in users.get(name, ())):
            found.add(name)
    return found


def _covers(user: Op, name: str, covered: dict[str, set[int]]) -> bool:
    """Whether an elementwise op has every axis of its result in one operand or the other."""
    if user.op not in ELEMENTWISE:
        return False
    whole = set(range(len(user.types[0].axes)))
    others = [covered.get(arg, whole) for arg in user.args if arg != name]
    return bool(others) and all(covered[name] | other == whole for other in others)


def folded(body: Sequence[Stmt]) -> dict[str, str]:
    """Sums of a product that nothing else reads, with that product."""
    users, numbers = readers(body), {s.results[0] for s in body if isinstance(s, Op) and s.op == "constant"}
    products = {
        s.results[0]
        for s in body
        if isinstance(s, Op) and s.op == "mul" and len(users.get(s.results[0], ())) == 1 and numbers.isdisjoint(s.args)
    }
    found: dict[str, str] = {}
    for statement in body:
        if isinstance(statement, Op) and statement.op == "add" and numbers.isdisjoint(statement.args):
            mates = [arg for arg in statement.args if arg in products]
            if mates and statement.args[0] != statement.args[1]:
                found[statement.results[0]] = mates[-1]
    return found


def rooms(body: Sequence[Stmt]) -> dict[str, Op]:
    """Stacks along their last axis that only sums read: one room serves all steps, each part written in its place."""
    users = readers(body)
    found: dict[str, Op] = {}
    for op in body:
        if not isinstance(op, Op) or op.op != "concat" or len(op.types[0].axes) < 2:
            continue
        last = dict(op.attrs)["at"] == len(op.types[0].axes) - 1
        if last and all(isinstance(user, Op) and user.op == "add" for user in users.get(op.results[0], ())):
            found[op.results[0]] = op
    return found


@dataclass(frozen=True)
class Host:
    """How a trace is made in place: `stack` is written part by part, then the rest of the `chain` is added to it.

    products: by link, matrix products (the step's Jacobian times the trace) that are added without being made.
    """

    stack: str
    chain: tuple[str, ...]
    products: Mapping[str, Op]


def hosts(body: Sequence[Stmt], stacked: Mapping[str, Op]) -> dict[str, Host]:
    """By carry: what it becomes is a sum that begins with a stack of its own, and nothing else keeps its old value."""
    users = readers(body)
    made = {s.results[0]: s for s in body if isinstance(s, Op)}
    held = {s.result: s.storage for s in body if isinstance(s, Load) and s.storage.endswith("_carry")}
    kept = {held[s.value] for s in body if isinstance(s, Store) and s.value in held}
    found: dict[str, Host] = {}
    for store in body:
        if isinstance(store, Store) and store.storage not in kept:
            chain = _chain(store.value, made, users, stacked)
            if chain and not any(chain[-1] == host.stack for host in found.values()):
                found[store.storage] = Host(chain[-1], chain, _products(chain, made, users))
    return found


def _products(chain: Sequence[str], made: Mapping[str, Op], users: Mapping[str, Sequence[Stmt]]) -> dict[str, Op]:
    """By link: the other side of the sum, where it is a product of matrices for each sample that nothing else reads."""
    found: dict[str, Op] = {}
    for link, before in pairwise(chain):
        (other,) = [arg for arg in made[link].args if arg != before]
        op = made.get(other)
        if op is not None and op.op == "contract" and len(users[other]) == 1 and not op.joint and len(op.types[0].lead):
            x, y, out = (tuple(dict(op.attrs)[side]) for side in ("x", "y", "out"))
            if len(x) == len(y) == 2 and x[1] == y[0] and out == (x[0], y[1]):
                found[link] = op
    return found


def _chain(
    value: str, made: Mapping[str, Op], users: Mapping[str, Sequence[Stmt]], stacked: Mapping[str, Op]
) -> tuple[str, ...]:
    """From a sum back to the stack that it begins with, each link read by the next alone; empty if there is none."""
    chain = [value]
    while chain[-1] not in stacked:
        op = made.get(chain[-1])
        if op is None or op.op != "add" or op.args[0] == op.args[1]:
            return ()
        before = [a for a in op.args if a in made and len(users[a]) == 1 and (a in stacked or made[a].op == "add")]
        if len(before) != 1:
            return ()
        chain.append(before[0])
    return tuple(chain)


def parts(body: Sequence[Stmt], stacked: dict[str, Op]) -> dict[str, Op]:
    """Products and repetitions that only a stack reads: they are written there, not made."""
    users = readers(body)
    found: dict[str, Op] = {}
    for op in body:
        if isinstance(op, Op) and op.op in ("mul", "broadcast", "reshape"):
            reading = users.get(op.results[0], [])
            inside = len(reading) == 1 and isinstance(reading[0], Op) and reading[0].results[0] in stacked
            if inside and (op.op == "mul" or (op.op == "broadcast" and _column(op))):
                found[op.results[0]] = op
            made = next((s for s in body if isinstance(s, Op) and s.results[0] == op.args[0]), None)
            if inside and op.op == "reshape" and made is not None and made.op == "mul" and len(users[op.args[0]]) == 1:
                found |= {op.results[0]: op, op.args[0]: made}
    return found


def _column(op: Op) -> bool:
    """A repetition that only adds a last axis of one entry."""
    axes, at = op.types[0].axes, tuple(dict(op.attrs)["at"])
    return axes[-1].size == 1 and at == tuple(range(len(axes) - 1))
