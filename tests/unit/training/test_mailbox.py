"""Who gets which letter of a run's workers, and when they have stalled."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, ClassVar

from mizzen.training.faults import Faults, Stalls
from mizzen.training.mailbox import Began, Happened, Left, Letters, Mailbox, Note, Progress, Pulse, Sender


class Heard:
    """All that is told."""

    def __init__(self, **faults: Any) -> None:
        self.lines: list[str] = []
        self.began = 0
        self.events: list[tuple[str, str]] = []
        self.progress: list[Progress] = []
        self.letters = Letters(
            self.progress.append,
            self.lines.append,
            self.count,
            lambda kind, text: self.events.append((kind, text)),
            Stalls(Faults(**faults)),
        )

    def count(self) -> None:
        self.began += 1


def pulse(rank: int, idle_s: float, where: str = "", *, stepped: bool = True) -> Pulse:
    return Pulse(rank, idle_s, stepped, where, f"handle {rank}")


def test_each_letter_reaches_whom_it_is_for() -> None:
    heard = Heard()
    for letter in (Note("hello"), Began(8), Happened("skipped", "step 9"), Progress(9, 10, loss=0.5)):
        heard.letters.deliver(letter, 0.0)
    assert heard.lines == ["hello"]
    assert heard.began == 1
    assert heard.events == [("began", "the workers have begun, at step 8"), ("skipped", "step 9")]
    assert [each.step for each in heard.progress] == [9]


def test_failures_are_remembered_for_the_error_at_the_end() -> None:
    heard = Heard()
    for kind in ("worker_failed", "node_lost", "notice"):
        heard.letters.deliver(Happened(kind, f"of {kind}"), 0.0)  # type: ignore[arg-type]
    assert heard.letters.failures == ["of worker_failed", "of node_lost"]


def test_a_stall_is_told_with_the_place_of_each_rank_and_the_one_that_has_stood_still_longest() -> None:
    heard = Heard(stall_timeout_s=10)
    heard.letters.deliver(pulse(0, 12.0, "model.py:3 forward"), 100.0)
    heard.letters.deliver(pulse(1, 1.0), 80.0)
    stall = heard.letters.stall(100.5)
    assert stall is not None
    assert stall[0] == "nothing has advanced for 22 s: worker 0 is in model.py:3 forward; worker 1 is silent"
    assert stall[1] == "handle 1"


def test_workers_that_have_left_or_failed_do_not_stall() -> None:
    heard = Heard(stall_timeout_s=10)
    for rank in (0, 1):
        heard.letters.deliver(pulse(rank, 0.0), 0.0)
    heard.letters.deliver(Left(0), 1.0)
    assert "worker 0" not in str(heard.letters.stall(50.0))
    heard.letters.deliver(Happened("worker_failed", "killed"), 2.0)
    assert heard.letters.stall(50.0) is None


def test_letters_are_taken_once_and_in_their_order() -> None:
    async def exchange() -> tuple[list[Any], list[Any]]:
        box = Mailbox()
        await box.put(Note("one"))
        await box.put(Note("two"))
        return await box.take(), await box.take()

    assert asyncio.run(exchange()) == ([Note("one"), Note("two")], [])


def test_letters_that_come_in_another_order_are_delivered_as_they_were_sent() -> None:
    box = Mailbox()

    class Call:
        """As Ray's method of an actor, but nothing is called until `calls` is."""

        calls: ClassVar[list[Any]] = []

        def remote(self, *arguments: Any) -> None:
            self.calls.append(arguments)

    one, other = (Sender(SimpleNamespace(put=Call())) for _ in range(2))
    for number in range(3):
        one.put(Note(f"one {number}"))
        other.put(Note(f"other {number}"))

    async def exchange() -> list[list[Any]]:
        taken = []
        for index in (2, 1, 5, 0, 3, 4):
            await box.put(*Call.calls[index])
            taken.append([letter.text for letter in await box.take()])  # type: ignore[union-attr]
        return taken

    assert asyncio.run(exchange()) == [
        [],
        ["other 0"],
        [],
        ["one 0", "one 1"],
        ["other 1", "other 2"],
        ["one 2"],
    ]


def test_a_notice_wakes_who_waits_for_it_and_forbids_another_start() -> None:
    async def exchange() -> str | None:
        box = Mailbox()
        waiting = asyncio.create_task(box.notice())
        await asyncio.sleep(0)
        assert not waiting.done()
        assert await box.forbidden() is None
        await box.give_notice()
        await asyncio.wait_for(waiting, 10)
        return await box.forbidden()

    assert asyncio.run(exchange()) == "it was stopped"
