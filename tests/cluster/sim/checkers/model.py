"""A database so simple that it is right, and histories of clients that used it.

Every transaction takes effect at one moment between its invocation and its answer, all moments in one
order; one of unknown outcome at any later moment, or never; one on a replica reads some earlier state, not
older than its session's last. `Bug` breaks one of these rules on purpose.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from enum import StrEnum

from cluster.sim.history import (
    Append,
    BankRead,
    Endpoint,
    History,
    Op,
    Outcome,
    Read,
    ReadList,
    Transaction,
    Write,
)

ACCOUNTS = ("a", "b", "c")
TOTAL = 300


class Bug(StrEnum):
    LOST_COMMITS = "acknowledged commits vanish, as in a bad recovery"
    ABORT_APPLIED = "what was rolled back is there"
    HALF_UNKNOWN = "half of a transaction of unknown outcome takes effect"
    STALE_WRITER = "the writer endpoint serves an old state, as a zombie would"
    REPLICA_BACK = "a replica session goes back"
    SPLIT_READ = "a transaction reads its keys at different commits"
    LOST_UPDATE = "a transaction writes on top of an old state"


@dataclass(slots=True)
class State:
    lsn: int = 0
    lists: dict[str, tuple[int, ...]] = field(default_factory=dict)
    registers: dict[str, int] = field(default_factory=dict)
    balances: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ACCOUNTS, TOTAL // 3))

    def copy(self) -> State:
        return State(self.lsn, dict(self.lists), dict(self.registers), dict(self.balances))


@dataclass(slots=True)
class Plan:
    """A transaction before it runs. Reads have no results yet; `transfer` is (from, to, amount)."""

    client: str
    seq: int
    session: str
    endpoint: Endpoint
    invoked_at: float
    effect_at: float
    completed_at: float
    outcome: Outcome
    happens: bool
    ops: list[Op]
    transfer: tuple[str, str, int] | None = None


class Model:
    def __init__(
        self, seed: int, *, bug: Bug | None = None, bug_rate: float = 0.2, only: str = "lrb"
    ) -> None:
        """`only`: which of lists, registers and the bank the clients use."""
        self.random = random.Random(seed)
        self.bug = bug
        self.bug_rate = bug_rate
        self.only = only
        self.took_effect = 0
        """How often the bug did."""
        self.states = [State()]
        self._session_at: dict[str, int] = {}
        self._value = 0

    def history(
        self, *, clients: int = 4, count: int = 60, keys: int = 3, final_reads: bool = True
    ) -> History:
        plans = [p for c in range(clients) for p in self._client(c, count // clients, keys)]
        plans.sort(key=lambda plan: (plan.effect_at, plan.client))
        end = max((p.effect_at + p.completed_at for p in plans), default=0.0) + 1
        if final_reads:
            ops: list[Op] = [ReadList(f"l{k}", ()) for k in range(keys)]
            ops += [Read(f"r{k}", None) for k in range(keys)]
            for seq in (1, 2):
                plans.append(
                    Plan(
                        "last", seq, "last-1", Endpoint.WRITER, end, end, end + 1,
                        Outcome.COMMITTED, True, [*ops, BankRead({})],
                    )
                )  # fmt: skip
                end += 2
        done = [self._run(plan) for plan in plans]
        done.sort(key=lambda t: (t.completed_at, t.client))
        return History(done)

    # -- plans

    def _client(self, number: int, count: int, keys: int) -> list[Plan]:
        rng = self.random
        client, now, connection = f"c{number}", rng.random(), 1
        endpoint = Endpoint.READER if number % 3 == 2 else Endpoint.WRITER
        plans = []
        for seq in range(1, count + 1):
            invoked = now + rng.random()
            effect = invoked + rng.random()
            completed = effect + rng.random()
            ops, transfer = self._ops(endpoint, keys)
            outcome, happens = Outcome.COMMITTED, True
            if rng.random() < 0.2:
                outcome, happens = Outcome.ABORTED, False
            elif rng.random() < 0.2:
                outcome, happens = Outcome.UNKNOWN, rng.random() < 0.6
                if happens and rng.random() < 0.5:
                    effect += rng.random() * 10
            plan = Plan(
                client, seq, f"{client}-{connection}", endpoint, invoked, effect, completed,
                outcome, happens, ops, transfer,
            )  # fmt: skip
            plans.append(plan)
            now = completed
            if outcome is Outcome.UNKNOWN or rng.random() < 0.1:
                connection += 1
        return plans

    def _ops(self, endpoint: Endpoint, keys: int) -> tuple[list[Op], tuple[str, str, int] | None]:
        rng = self.random
        ops: list[Op] = []
        writes = endpoint is Endpoint.WRITER and rng.random() < 0.7
        for _ in range(rng.randint(1, 4)):
            key = rng.randrange(keys)
            what = rng.choice(self.only)
            if what == "b":
                ops.append(BankRead({}))
            elif not writes or rng.random() < 0.4:
                ops.append(ReadList(f"l{key}", ()) if what == "l" else Read(f"r{key}", None))
            else:
                self._value += 1
                value = self._value
                ops.append(Append(f"l{key}", value) if what == "l" else Write(f"r{key}", value))
        if not writes or "b" not in self.only or rng.random() < 0.5:
            return ops, None
        source, target = rng.sample(ACCOUNTS, 2)
        return ops, (source, target, rng.randint(1, 10))

    # -- running

    def _buggy(self, bug: Bug) -> bool:
        return self.bug is bug and self.random.random() < self.bug_rate

    def _run(self, plan: Plan) -> Transaction:
        writes = any(isinstance(op, Append | Write) for op in plan.ops) or plan.transfer is not None
        if self._buggy(Bug.LOST_COMMITS) and len(self.states) > 3:
            self.took_effect += 1
            del self.states[-2:]
            self._session_at = {
                s: min(i, len(self.states) - 1) for s, i in self._session_at.items()
            }
        seen = self._snapshot(plan, writes)
        state = self.states[seen].copy()
        ops, other = [], state
        if self._buggy(Bug.SPLIT_READ) and not writes and seen > 3:
            other = self.states[seen - 3]
        for index, op in enumerate(plan.ops):
            ops.append(self._apply(op, state if index % 2 == 0 else other))
        if other is not state and ops != [self._apply(op, state) for op in plan.ops]:
            self.took_effect += 1
        if plan.transfer is not None:
            source, target, amount = plan.transfer
            state.balances[source] -= amount
            state.balances[target] += amount
        happens = plan.happens
        if plan.outcome is Outcome.ABORTED and writes and self._buggy(Bug.ABORT_APPLIED):
            self.took_effect += 1
            happens = True
        if plan.outcome is Outcome.UNKNOWN and writes and self._buggy(Bug.HALF_UNKNOWN):
            whole, state = state, self._half(plan, self.states[seen])
            self.took_effect += state not in (whole, self.states[seen])
            happens = True
        commit_lsn = None
        if happens and writes:
            state.lsn = self.states[-1].lsn + self.random.randint(1, 3)
            self.states.append(state)
            if plan.outcome is Outcome.COMMITTED and self.random.random() < 0.8:
                commit_lsn = state.lsn
        late = plan.effect_at > plan.completed_at
        if late:
            ops = [answer for op in ops if (answer := self._unanswered(op)) is not None]
        read_lsn = self.states[seen].lsn if not late and self.random.random() < 0.8 else None
        if self.bug is not None:
            commit_lsn = read_lsn = None  # it has to be seen without them
        return Transaction(
            plan.client, plan.seq, plan.session,
            "main-1" if plan.endpoint is Endpoint.WRITER else "main-2", plan.endpoint,
            plan.invoked_at, plan.completed_at, plan.outcome, tuple(ops), commit_lsn, read_lsn,
        )  # fmt: skip

    def _snapshot(self, plan: Plan, writes: bool) -> int:
        """The index of the state that a transaction sees."""
        newest = len(self.states) - 1
        back = self._session_at.get(plan.session, 0)
        if plan.endpoint is Endpoint.READER:
            at = self.random.randint(back, newest)
            if back and self._buggy(Bug.REPLICA_BACK):
                self.took_effect += 1
                return self.random.randrange(back)
            self._session_at[plan.session] = at
            return at
        if not writes and newest > 3 and self._buggy(Bug.STALE_WRITER):
            self.took_effect += 1
            return newest - 3
        if writes and newest > 3 and plan.happens and self._buggy(Bug.LOST_UPDATE):
            self.took_effect += 1
            return newest - 2
        return newest

    def _half(self, plan: Plan, before: State) -> State:
        state = before.copy()
        for op in plan.ops[: len(plan.ops) // 2]:
            self._apply(op, state)
        if plan.transfer is not None:
            state.balances[plan.transfer[0]] -= plan.transfer[2]
        return state

    def _apply(self, op: Op, state: State) -> Op:
        match op:
            case Append(key, value):
                state.lists[key] = (*state.lists.get(key, ()), value)
                return op
            case ReadList(key, _):
                return ReadList(key, state.lists.get(key, ()))
            case Write(key, value):
                state.registers[key] = value
                return op
            case Read(key, _):
                return Read(key, state.registers.get(key))
            case _:
                return BankRead(dict(state.balances))

    def _unanswered(self, op: Op) -> Op | None:
        match op:
            case ReadList():
                return replace(op, values=None)
            case Read() | BankRead():
                return None
            case _:
                return op
