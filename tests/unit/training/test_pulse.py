"""Where a worker is that does not advance."""

import threading

from mizzen.training.pulse import place_of


def test_the_place_is_the_innermost_line_of_the_thread_and_those_that_called_it() -> None:
    reached, over = threading.Event(), threading.Event()

    def waits_for_ever() -> None:
        reached.set()
        over.wait()

    thread = threading.Thread(target=waits_for_ever)
    thread.start()
    try:
        assert reached.wait(20)
        place = place_of(thread.ident or 0)
    finally:
        over.set()
        thread.join()
    assert "training/test_pulse.py:" in place
    assert "waits_for_ever" in place
    assert " < " in place


def test_a_thread_that_is_gone_is_nowhere() -> None:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    assert place_of(thread.ident or 0) == ""
