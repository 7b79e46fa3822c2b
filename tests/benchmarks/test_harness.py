"""Interleaving and contended repeats, on a made-up clock."""

import pytest

from benchmarks.harness import Settings, SystemClock, compare, timed


class MadeUp:
    """A clock that advances when a candidate runs; `busy` lists the cores of others in each timed or warming run."""

    def __init__(self, busy=()):
        self.time = self.used = 0.0
        self.busy, self.order = list(busy), []

    def now(self):
        return self.time

    def others(self):
        return self.used

    def candidate(self, name, seconds):
        def run():
            self.order.append(name)
            self.time += seconds
            self.used += seconds * (self.busy.pop(0) if self.busy else 0.0)

        return run


def settings(**changes):
    return Settings(**{"repeats": 3, "warm_up": 1, "settle": 0.0, "slack": 0.0} | changes)


def test_rounds_are_interleaved_and_turn_their_order():
    clock = MadeUp()
    times = compare({n: clock.candidate(n, s) for n, s in (("a", 1.0), ("b", 2.0))}, settings(), clock)
    assert "".join(clock.order) == "ab" + "ab" + "ba" + "ab"
    assert times.seconds == {"a": [1.0] * 3, "b": [2.0] * 3}
    assert (times.thrown_away, times.contended) == (0, 0)


def test_a_contended_repeat_is_thrown_away_and_repeated():
    clock = MadeUp([0, 0, 0, 0.5, 1.5, 0.05])  # two warm-ups, a clean, b twice contended, then clean enough
    times = compare({n: clock.candidate(n, 1.0) for n in "ab"}, settings(), clock)
    assert "".join(clock.order) == "ab" + "a" + "bbb" + "ba" + "ab"
    assert times.thrown_away == 2
    assert [len(s) for s in times.seconds.values()] == [3, 3]
    assert times.contended == 0


def test_patience_ends_and_what_is_kept_then_is_counted():
    clock = MadeUp([1.0] * 100)
    times = compare({"a": clock.candidate("a", 1.0)}, settings(patience=4), clock)
    assert (times.thrown_away, times.contended) == (4, 3)
    assert len(clock.order) == 1 + 4 + 3


def test_a_tick_of_others_is_forgiven_in_a_short_run():
    clock = MadeUp([0, 1.0, 1.0, 1.0])
    times = compare({"a": clock.candidate("a", 0.01)}, settings(slack=0.05), clock)
    assert times.thrown_away == 0


def test_the_machines_clock_sees_another_process():
    import subprocess
    import sys
    import time

    clock = SystemClock()
    burn = "import time; end = time.process_time() + 0.4\nwhile time.process_time() < end: pass"

    def beside_a_busy_process():
        # Started by a process of its own that ends at once, so that it is no child of ours.
        starter = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burn!r}])"
        subprocess.run([sys.executable, "-c", starter], check=True)
        time.sleep(0.8)

    start = clock.others()
    timed(beside_a_busy_process, clock)
    assert clock.others() - start > 0.1


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="repeats and warm_up must be at least 1, got 0 and 2"):
        Settings(repeats=0)
