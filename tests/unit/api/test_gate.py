"""The gate: keys, tokens and logins are checked, remembered for some seconds, and forgotten in time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jwt
import pytest
from tests.memory_access import MemoryAccess

from fqlstream.api.gate import Gate
from fqlstream.api.problems import ApiError
from fqlstream.clock import ManualClock
from fqlstream.errors import StoreError
from fqlstream.ops import access
from fqlstream.ops.access import Scope
from fqlstream.settings import ApiSettings
from fqlstream.store import access as rows

T = TypeVar("T")
SECRET = b"of the test, thirty-two or longer"
PASSWORD = "correct horse battery staple"  # noqa: S105  # of nobody
NOW_MS = 1_800_000_000_000


class World:
    """A gate over rows in memory, and a clock that stands still."""

    def __init__(self, memory: MemoryAccess, **settings: Any) -> None:
        self.memory = memory
        self.clock = ManualClock(NOW_MS)
        self.settings = ApiSettings(**settings)
        self.threads = ThreadPoolExecutor(4)

    def run(self, play: Callable[[Gate], Awaitable[T]]) -> T:
        """Play something with a gate of its own."""

        async def playing() -> T:
            return await play(Gate(self.settings, self.memory.store, SECRET, self.clock, self.threads))

        return asyncio.run(playing())

    def user(self, *scopes: Scope) -> None:
        access.add_user(
            self.memory.store, SECRET, "bob", PASSWORD, scopes or [Scope.READ], self.settings, clock=self.clock
        )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(MemoryAccess.instead_of_clickhouse(monkeypatch))
    yield made
    made.threads.shutdown()


async def refused(answer: Awaitable[object], status: int = 401) -> str:
    with pytest.raises(ApiError) as error:
        await answer
    assert error.value.problem.status == status
    return error.value.problem.message


def test_a_key_is_let_in_as_what_it_is(world: World) -> None:
    made = access.create_key(world.memory.store, [Scope.WRITE], "nightly")
    caller = world.run(lambda gate: gate.caller_of_bearer(made.key))
    assert (caller.id, caller.name, caller.scopes) == (f"key:{made.id}", "nightly", {Scope.WRITE})


@pytest.mark.parametrize("text", ["", "fq_", "fq_abc_def", "x.y.z", "fq_" + "a" * 12 + "_" + "b" * 43, "\ud800", "é"])
def test_what_is_no_key_is_not(world: World, text: str) -> None:
    world.run(lambda gate: refused(gate.caller_of_bearer(text)))


def test_argon2_is_paid_once_and_a_revoked_key_works_no_longer_than_it_is_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes: list[str] = []
    right = access.matches
    monkeypatch.setattr(access, "matches", lambda stored, given: hashes.append(stored) or right(stored, given))
    made = access.create_key(world.memory.store, [Scope.WRITE])

    async def play(gate: Gate) -> None:
        for _ in range(3):
            await gate.caller_of_bearer(made.key)
        assert len(hashes) == 1
        assert world.memory.asked == ["key"]
        access.revoke_key(world.memory.store, made.id)
        await gate.caller_of_bearer(made.key)  # remembered
        world.clock.advance(int(world.settings.access_cache_s * 1000) + 1)
        await refused(gate.caller_of_bearer(made.key))
        assert len(hashes) == 1, "that it was revoked is seen without hashing"

    world.run(play)


def test_a_known_key_works_on_while_clickhouse_is_away_and_not_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = access.create_key(world.memory.store, [Scope.WRITE])
    other = access.create_key(world.memory.store, [Scope.WRITE])
    cache_ms, outage_ms = int(world.settings.access_cache_s * 1000), int(world.settings.access_outage_s * 1000)

    def away(*_: Any) -> Any:
        raise StoreError("STO001", "nothing answers", retryable=True)

    async def play(gate: Gate) -> None:
        await gate.caller_of_bearer(made.key)
        with monkeypatch.context() as outage:
            outage.setattr(rows, "read_keys", away)
            world.clock.advance(cache_ms + 1)
            await gate.caller_of_bearer(made.key)
            with pytest.raises(StoreError):
                await gate.caller_of_bearer(other.key)
            world.clock.advance(outage_ms)
            with pytest.raises(StoreError):
                await gate.caller_of_bearer(made.key)
        access.revoke_key(world.memory.store, made.id)
        await refused(gate.caller_of_bearer(made.key))

    world.run(play)


def test_a_wrong_secret_of_a_known_id_is_refused_each_time_though_the_right_one_is_remembered(world: World) -> None:
    made = access.create_key(world.memory.store, [Scope.ADMIN])
    wrong = made.key[:-1] + ("A" if made.key[-1] != "A" else "B")

    async def play(gate: Gate) -> None:
        await gate.caller_of_bearer(made.key)
        for _ in range(2):
            await refused(gate.caller_of_bearer(wrong))
        await gate.caller_of_bearer(made.key)

    world.run(play)


def test_many_who_come_at_once_with_one_key_are_checked_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes: list[str] = []
    right = access.matches
    monkeypatch.setattr(access, "matches", lambda stored, given: hashes.append(stored) or right(stored, given))
    made = access.create_key(world.memory.store, [Scope.READ])

    async def play(gate: Gate) -> None:
        await asyncio.gather(*(gate.caller_of_bearer(made.key) for _ in range(20)))

    world.run(play)
    assert len(hashes) == 1


def test_a_token_stands_for_its_key_until_it_expires(world: World) -> None:
    made = access.create_key(world.memory.store, [Scope.WRITE])

    async def play(gate: Gate) -> None:
        token = await gate.issue_token(made.key)
        claims = jwt.decode(token.text, options={"verify_signature": False})
        assert (claims["iat"], claims["exp"]) == (NOW_MS // 1000, NOW_MS // 1000 + world.settings.access_s)
        assert made.key not in token.text
        assert (await gate.caller_of_bearer(token.text)).id == f"key:{made.id}"
        world.clock.advance(world.settings.access_s * 1000)
        assert "expired" in await refused(gate.caller_of_bearer(token.text))

    world.run(play)


def test_a_token_ends_with_its_key(world: World) -> None:
    made = access.create_key(world.memory.store, [Scope.WRITE])

    async def play(gate: Gate) -> None:
        token = await gate.issue_token(made.key)
        access.revoke_key(world.memory.store, made.id)
        gate.forget()
        assert "revoked" in await refused(gate.caller_of_bearer(token.text))

    world.run(play)


def test_a_forged_token_is_none(world: World) -> None:
    made = access.create_key(world.memory.store, [Scope.ADMIN])
    now_s = NOW_MS // 1000
    claims = {"sub": made.id, "aud": "fqlstream", "iat": now_s, "exp": now_s + 1_000}

    async def play(gate: Gate) -> None:
        forged = [
            jwt.encode(claims, "another secret, as long as the right one is", "HS256"),
            jwt.encode(claims, "", "none"),
            jwt.encode({**claims, "aud": "others"}, "another secret, as long as the right one is", "HS256"),
        ]
        for text in forged:
            await refused(gate.caller_of_bearer(text))
        good = (await gate.issue_token(made.key)).text
        head, body, signature = good.split(".")
        await refused(gate.caller_of_bearer(f"{head}.{body}.{signature[::-1]}"))
        await refused(gate.caller_of_bearer(f"{head}.{body}."))

    world.run(play)


def test_a_login_lasts_a_session_and_a_logout_ends_only_that_one(world: World) -> None:
    world.user()

    async def play(gate: Gate) -> None:
        caller, cookie = await gate.log_in("bob", PASSWORD)
        _, other = await gate.log_in("bob", PASSWORD)
        assert cookie != other
        assert (await gate.caller_of_session(cookie)) == caller
        await gate.log_out(caller)
        assert "over" in await refused(gate.caller_of_session(cookie))
        await gate.caller_of_session(other)
        world.clock.advance(world.settings.session_s * 1000)
        assert "expired" in await refused(gate.caller_of_session(other))

    world.run(play)


def test_logging_out_everywhere_ends_all_logins_that_were(world: World) -> None:
    world.user()

    async def play(gate: Gate) -> None:
        caller, first = await gate.log_in("bob", PASSWORD)
        _, second = await gate.log_in("bob", PASSWORD)
        world.clock.advance(10)
        await gate.log_out(caller, everywhere=True)
        for cookie in (first, second):
            await refused(gate.caller_of_session(cookie))
        world.clock.advance(10)
        _, third = await gate.log_in("bob", PASSWORD)
        await gate.caller_of_session(third)

    world.run(play)


def test_a_removed_users_logins_end_when_they_are_no_longer_remembered(world: World) -> None:
    world.user()

    async def play(gate: Gate) -> None:
        _, cookie = await gate.log_in("bob", PASSWORD)
        await gate.caller_of_session(cookie)
        access.remove_user(world.memory.store, "bob")
        world.clock.advance(int(world.settings.access_cache_s * 1000) + 1)
        await refused(gate.caller_of_session(cookie))

    world.run(play)


@pytest.mark.parametrize("cookie", ["", "x", "eyJhIjoxfQ.x", "é", "." * 10_000])
def test_a_cookie_that_we_did_not_sign_is_none(world: World, cookie: str) -> None:
    world.run(lambda gate: refused(gate.caller_of_session(cookie)))


def test_guessing_is_slowed_down_by_name_and_success_forgives(world: World) -> None:
    world.settings = ApiSettings(login_failures_max=3)
    world.user()

    async def play(gate: Gate) -> None:
        for _ in range(2):
            await refused(gate.log_in("bob", "wrong password"))
        await gate.log_in("bob", PASSWORD)
        for _ in range(3):
            await refused(gate.log_in("bob", "wrong password"))
        await refused(gate.log_in("bob", PASSWORD), 429)
        await refused(gate.log_in("eve", PASSWORD))  # others are not held up
        world.clock.advance(61_000)
        await gate.log_in("bob", PASSWORD)

    world.run(play)


@pytest.mark.parametrize("name", ["", "\ud800", "a" * 65, "a b", "a\x00"])
def test_what_can_be_no_name_is_neither_counted_nor_looked_up(world: World, name: str) -> None:
    async def play(gate: Gate) -> None:
        assert "wrong user name" in await refused(gate.log_in(name, PASSWORD))
        assert not gate._failures
        assert not world.memory.asked

    world.run(play)


def test_guesses_that_come_at_once_are_no_way_around_waiting(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.settings = ApiSettings(login_failures_max=3, hashes_at_once=2)
    world.user()
    hashes: list[str] = []
    right = access.matches
    monkeypatch.setattr(access, "matches", lambda stored, given: hashes.append(stored) or right(stored, given))

    async def play(gate: Gate) -> None:
        guesses = [gate.log_in("bob", f"wrong password {number}") for number in range(30)]
        answers = await asyncio.gather(*guesses, return_exceptions=True)
        assert {error.problem.status for error in answers if isinstance(error, ApiError)} == {401, 429}

    world.run(play)
    assert len(hashes) <= 4, "three failures, and one that was being checked beside the third"


def test_logins_do_not_hold_up_keys(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.settings = ApiSettings(hashes_at_once=1)
    made = access.create_key(world.memory.store, [Scope.READ])
    go_on = threading.Event()
    monkeypatch.setattr(access, "authenticate_user", lambda *_: go_on.wait(10) and None)

    async def play(gate: Gate) -> None:
        login = asyncio.ensure_future(gate.log_in("bob", PASSWORD))
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(5):
                await gate.caller_of_bearer(made.key)
        finally:
            go_on.set()
            await refused(login)

    world.run(play)


def test_an_unknown_name_costs_as_much_as_a_known_one(world: World) -> None:
    world.settings = ApiSettings(login_failures_max=1_000)
    world.user()

    async def took_s(gate: Gate, name: str) -> float:
        began_s = time.perf_counter()
        await refused(gate.log_in(name, "wrong password"))
        return time.perf_counter() - began_s

    async def play(gate: Gate) -> None:
        await took_s(gate, "eve")  # the hash of nobody is made once
        known = min([await took_s(gate, "bob") for _ in range(7)])
        unknown = min([await took_s(gate, "eve") for _ in range(7)])
        assert unknown > known / 3, (known, unknown)

    world.run(play)


def test_what_is_remembered_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from fqlstream.api import gate as module

    monkeypatch.setattr(module, "_REMEMBERED_MAX", 5)
    monkeypatch.setattr(module, "_FAILING_MAX", 5)

    async def play(gate: Gate) -> None:
        for number in range(30):
            await refused(gate.caller_of_bearer(f"fq_{number:012}_" + "b" * 43))
            await refused(gate.log_in(f"name-{number}", "wrong"))
        assert len(gate._remembered) <= 5
        assert len(gate._failures) <= 5
        assert not gate._asking

    world.run(play)
