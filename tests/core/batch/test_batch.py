"""The batch runner: failures stay with their file, finished work is not redone, nothing is lost when a process dies."""

import os
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from attn.core.batch.run import run_batch
from attn.core.batch.task import Task
from attn.core.bundles import Placement
from attn.core.errors import InputError, UsageError
from attn.core.report.model import Item


def copy_upper(task: Task, step) -> Item:
    """The smallest work there is: write the input's text in capitals; some texts ask for trouble."""
    text = task.source.read_text()
    if text == "broken":
        raise InputError(task.source, "is broken", "Mend it")
    if text == "bug":
        raise ZeroDivisionError("a slip")
    if text == "stop":
        raise KeyboardInterrupt
    if text == "usage":
        raise UsageError("this option makes no sense")
    if text == "hang":
        time.sleep(60)
    step(1, 1)
    task.output.write_text(text.upper())
    names = [name for name in ("MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS") if name in os.environ]
    deaf = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    details = {"environment": names, "deaf": deaf}
    return Item(task.name, str(task.output), "ok", 0.0, metrics={"length": len(text)}, details=details)


def die_until(task: Task, step, marks: Path, deaths: int) -> Item:
    """Kill the own process the first ``deaths`` times that this file comes up, as the kernel's memory killer would."""
    if task.source.read_text() == "kill":
        seen = len(list(marks.glob("death*")))
        if seen < deaths:
            (marks / f"death{seen}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return copy_upper(task, step)


@pytest.fixture
def make_tasks(tmp_path):
    def make(*texts: str) -> list[Task]:
        tasks = []
        for number, text in enumerate(texts):
            source = tmp_path / f"{number}.txt"
            source.write_text(text)
            tasks.append(Task(source, tmp_path / f"{number}.out", source.name))
        return tasks

    return make


def statuses(outcome) -> list[str]:
    return [item.status for item in outcome.items]


def test_one_broken_file_does_not_stop_the_others(make_tasks):
    outcome = run_batch(copy_upper, make_tasks("a", "broken", "bug", "b"), Placement())
    assert statuses(outcome) == ["ok", "failed", "failed", "ok"]
    assert outcome.items[1].error == "is broken. Mend it"  # without the name, which the report shows beside it
    assert outcome.items[2].error.startswith("internal error, ZeroDivisionError: a slip")
    assert "a slip" in outcome.items[2].traceback


def test_finished_outputs_are_skipped_unless_overwritten(make_tasks):
    tasks = make_tasks("a", "b")
    tasks[0].output.write_text("from an earlier run")
    assert statuses(run_batch(copy_upper, tasks, Placement())) == ["skipped", "ok"]
    assert tasks[0].output.read_text() == "from an earlier run"
    assert statuses(run_batch(copy_upper, tasks, Placement(overwrite=True))) == ["ok", "ok"]
    assert tasks[0].output.read_text() == "A"


def test_interrupt_keeps_what_is_done_and_names_what_is_left(make_tasks):
    outcome = run_batch(copy_upper, make_tasks("a", "stop", "b"), Placement())
    assert outcome.interrupted
    assert statuses(outcome) == ["ok"]
    assert outcome.left == ("1.txt", "2.txt")


def test_wrong_options_end_the_batch(make_tasks):
    with pytest.raises(UsageError, match="makes no sense"):
        run_batch(copy_upper, make_tasks("usage", "a"), Placement())


def test_watcher_hears_of_every_item_and_step(make_tasks):
    heard = []

    class Listener:
        def item(self, item, done, total):
            heard.append((item.status, done, total))

        def step(self, name, done, total):
            heard.append((name, done, total))

    run_batch(copy_upper, make_tasks("a", "broken"), Placement(), Listener())
    assert heard == [("0.txt", 1, 1), ("ok", 1, 2), ("failed", 2, 2)]


def test_workers_retry_a_file_whose_worker_was_killed(make_tasks, tmp_path):
    tasks = make_tasks("a", "kill", "b", "broken")
    work = partial(die_until, marks=tmp_path, deaths=1)
    outcome = run_batch(work, tasks, Placement(workers=2))
    assert statuses(outcome) == ["ok", "ok", "ok", "failed"]
    assert tasks[1].output.read_text() == "KILL"
    assert (tmp_path / "death0").exists()  # it was really killed
    # workers keep freed memory: dask's MALLOC_TRIM_THRESHOLD_ doubled the time of every photo
    assert [item.details["environment"] for item in outcome.items[:3]] == [["OMP_NUM_THREADS"]] * 3
    # Ctrl-C is answered here alone, also by workers that replace others: theirs was two tracebacks each
    assert all(item.details["deaf"] for item in outcome.items[:3])
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.slow
def test_a_file_that_kills_every_worker_fails_alone(make_tasks, tmp_path):
    tasks = make_tasks("a", "kill", "b")
    outcome = run_batch(partial(die_until, marks=tmp_path, deaths=99), tasks, Placement(workers=2))
    assert statuses(outcome) == ["ok", "failed", "ok"]
    assert "worker died 3 times" in outcome.items[1].error


@pytest.mark.slow
def test_a_hanging_file_is_given_up(make_tasks):
    outcome = run_batch(copy_upper, make_tasks("hang", "a", "b"), Placement(item_timeout=10.0))
    assert statuses(outcome) == ["failed", "ok", "ok"]
    assert "gave up after 10 s" in outcome.items[0].error


@pytest.mark.slow
def test_a_running_cluster_is_used_and_a_killed_worker_replaced(make_tasks, tmp_path):
    from distributed import LocalCluster

    tasks = make_tasks(*"abcdef", "kill")
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster:
        work = partial(die_until, marks=tmp_path, deaths=1)
        outcome = run_batch(work, tasks, Placement(cluster=cluster.scheduler_address))
        assert statuses(outcome) == ["ok"] * 7
        assert [task.output.read_text() for task in tasks] == [*"ABCDEF", "KILL"]
        assert len(cluster.workers) == 2  # a cluster that we were lent is left running


def test_every_worker_gets_neighbouring_tasks_and_nobody_waits():
    from attn.core.batch.cluster import Runs

    runs = Runs([4, 5, 6, 7, 8], ["a", "b"])
    given = [runs.next_for(worker) for worker in "abaaa"]
    assert given == [4, 6, 5, 8, 7]  # a is through with 4 and 5, and takes from the end of what b was to do
    assert not runs


def test_turns_are_the_order_of_work(make_tasks):
    heard = []

    class Listener:
        def item(self, item, done, total):
            heard.append(item.input)

        def step(self, name, done, total): ...

    tasks = make_tasks("a", "b", "c")

    def turned(tasks):
        return [replace(task, turn=-number) for number, task in enumerate(tasks)]

    outcome = run_batch(copy_upper, tasks, Placement(), Listener(), prepare=turned)
    assert heard == ["2.txt", "1.txt", "0.txt"]
    assert [item.input for item in outcome.items] == ["0.txt", "1.txt", "2.txt"]


def test_no_scheduler_at_the_address_is_a_usage_error(make_tasks):
    with pytest.raises(UsageError, match=r"no dask scheduler answers at 127\.0\.0\.1:9"):
        run_batch(copy_upper, make_tasks("a"), Placement(cluster="127.0.0.1:9", connect_timeout=0.5))


def test_what_cannot_be_read_is_never_skipped(make_tasks, tmp_path):
    (task,) = make_tasks("a")
    run_batch(copy_upper, [task], Placement())
    gone = replace(task, error=InputError(task.name, "does not exist"))
    assert [item.status for item in run_batch(copy_upper, [gone], Placement()).items] == ["failed"]


def test_a_place_that_cannot_be_written_fails_before_the_work(make_tasks, tmp_path):
    (task,) = make_tasks("a")
    (tmp_path / "file").write_text("")

    def never(task, step):
        raise AssertionError

    for output in (tmp_path / "file" / "x", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        (item,) = run_batch(never, [replace(task, output=output)], Placement()).items
        assert "cannot be written" in item.error
