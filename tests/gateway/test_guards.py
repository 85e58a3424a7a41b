"""Policies are replaced while streams are under way: at once for new ones, never for old ones."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from gateway import guards as module
from gateway.guards import Guards, load_guard
from gateway.settings import Settings
from monitors.guard import Guard
from monitors.judges.base import Passage, Verdict
from monitors.judges.embedded import EmbeddedJudge
from monitors.taxonomy import Action, Mode, Stage
from tests.gateway.harness import RULES
from tests.monitors.judges.guard_server import chat, guard_server

KETTLE = Passage(Stage.INPUT, "a crimson kettle")
NEVER = 3600.0


def rules(*words: str, **sections: Any) -> Mapping[str, Any]:
    """A policy whose judge finds these words."""
    looked_for = [
        {"name": f"r{number}", "literal": word, "scenario": "weapons"}
        for number, word in enumerate(words)
    ]
    return {**RULES, "rules": looked_for, **sections}


def write(file: Path, policy: Mapping[str, Any] | str | None) -> None:
    """As editors do: renamed into its place. None: gone."""
    if policy is None:
        file.unlink()
        return
    text = policy if isinstance(policy, str) else json.dumps(policy)
    new = file.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    write(file, rules("crimson kettle"))
    return file


def opened(file: Path, look_seconds: float = NEVER, **overrides: Any) -> Guards:
    settings = Settings("http://127.0.0.1:9/v1", file, **overrides)
    return Guards(settings, load_guard(settings), look_seconds=look_seconds)


async def judged(guard: Guard, passage: Passage = KETTLE, owner: str | None = None) -> Verdict:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Verdict] = loop.create_future()
    guard.judges.submit(passage, answer.set_result, owner=owner)
    async with asyncio.timeout(10):
        return await answer


def lanes() -> int:
    """Threads of rules judges."""
    return sum(thread.name.startswith("judge-rules@") for thread in threading.enumerate())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - threads and files tell no event
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    assert lanes() == 0
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("judge-rules@"):
            thread.join(10)
    assert lanes() == 0


async def test_who_began_under_a_policy_ends_under_it(file: Path) -> None:
    async with opened(file) as guards:
        with guards.use() as old:
            write(file, rules("purple teapot"))
            assert await guards.reload()
            new = guards.current
            assert new.policy.version != old.policy.version
            assert new.judge_names != old.judge_names
            assert (await judged(old)).unsafe == 1.0
            assert (await judged(new)).unsafe == 0.0
            assert lanes() == 2
        await until(lambda: lanes() == 1)
        with pytest.raises(RuntimeError):
            with guards.use(old):
                pass
        assert (await judged(guards.current)).unsafe == 0.0
        assert (guards.reloads_ok, guards.reloads_failed) == (1, 0)


async def test_a_guard_may_be_pinned_again_before_anybody_waits(file: Path) -> None:
    async with opened(file) as guards:
        with guards.use() as old:
            write(file, rules("purple teapot"))
            assert await guards.reload()
        with guards.use(old) as again:
            assert again is old
            for _ in range(5):
                await asyncio.sleep(0)
            assert (await judged(old)).unsafe == 1.0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("name: x\nmode: on\n", "policy.yaml:2: mode: `on` is not allowed"),
        ("name: [", "policy.yaml:1: (file): not valid YAML"),
        ("", "policy.yaml:1: (file): the file is empty"),
        (None, "policy.yaml:1: (file): cannot be read: No such file or directory"),
    ],
)
async def test_a_bad_file_changes_nothing_and_is_told(
    file: Path, text: str | None, why: str
) -> None:
    async with opened(file) as guards:
        before = guards.current
        write(file, text)
        assert not await guards.reload()
        assert guards.current is before
        assert guards.last_error is not None
        assert why in guards.last_error
        assert (await judged(guards.current)).unsafe == 1.0
        write(file, rules("purple teapot"))
        assert await guards.reload()
        assert guards.last_error is None
        assert (guards.reloads_ok, guards.reloads_failed) == (1, 1)


async def test_judges_that_cannot_judge_or_a_bug_change_nothing(file: Path) -> None:
    async with opened(file) as guards:
        before = guards.current
        write(file, rules("purple teapot"))
        with patch("monitors.judges.rules.RulesJudge.score", side_effect=RuntimeError("secret")):
            assert not await guards.reload()
        assert str(guards.last_error).endswith("cannot judge: RuntimeError")
        with patch.object(module, "load_guard", side_effect=RuntimeError("secret")):
            assert not await guards.reload()
        assert str(guards.last_error).endswith("policy.yaml: could not be loaded")
        assert guards.current is before


async def test_nothing_new_is_no_new_guard(file: Path) -> None:
    async with opened(file) as guards:
        before = guards.current
        write(file, "# the same\n" + json.dumps(rules("crimson kettle")))
        assert not await guards.reload()
        assert guards.current is before
        assert (guards.reloads_ok, guards.last_error) == (1, None)


async def test_the_same_judges_work_on_and_remember(file: Path) -> None:
    async with opened(file) as guards:
        old = guards.current
        await judged(old, owner="alice")
        for budget in (1, 0):
            write(file, rules("crimson kettle", correction={"budget": budget}))
            assert await guards.reload()
        assert guards.current.policy.correction.budget == 0
        assert guards.current.judges is old.judges
        write(file, rules("crimson kettle", limits={"judge_timeout_seconds": 9}))
        assert await guards.reload()
        assert guards.current.judges is not old.judges
        assert (await judged(guards.current, owner="alice")).unsafe == 1.0
        assert (guards.tally.asked, guards.tally.remembered) == (2, 1)
        write(file, rules("purple teapot"))
        assert await guards.reload()
        assert (await judged(guards.current, owner="alice")).unsafe == 0.0
        await until(lambda: lanes() == 1)
        assert (guards.tally.asked, guards.tally.remembered) == (3, 1)


async def test_the_embedded_judge_is_loaded_once_for_all_policies(file: Path) -> None:
    panels = {stage.value: ["embedded", "rules"] for stage in Stage}
    write(file, rules("crimson kettle", judges=panels))
    with patch.object(EmbeddedJudge, "load", wraps=EmbeddedJudge.load) as load:
        async with opened(file) as guards:
            for word in ("purple teapot", "crimson kettle", "green ladle"):
                write(file, rules(word, judges=panels))
                assert await guards.reload()
            assert load.call_count == 1
            verdict = await judged(guards.current, Passage(Stage.ANSWER, "A green ladle."))
    assert [part.judge.partition("@")[0] for part in verdict.parts] == ["embedded", "rules"]
    assert verdict.unsafe == 1.0


async def test_overrides_hold_after_a_reload(file: Path) -> None:
    async with opened(file, mode=Mode.SHADOW, judge="constant") as guards:
        rows = {**RULES["scenarios"], "weapons": {"input": "prime"}}
        write(file, rules("purple teapot", scenarios=rows))
        assert await guards.reload()
        policy = guards.current.policy
        assert policy.mode is Mode.SHADOW
        assert policy.judges == dict.fromkeys(Stage, ("constant",))
        assert Action.PRIME in {cell.action for cell in policy.cells.values()}


async def test_two_hundred_reloads_leak_nothing(file: Path) -> None:
    async with opened(file) as guards:
        tasks = len(asyncio.all_tasks())
        pinned: list[ExitStack] = []
        for number in range(200):
            write(file, rules(f"kettle {number}"))
            assert await guards.reload()
            if number % 10 == 0:
                pinned.append(ExitStack())
                guard = pinned[-1].enter_context(guards.use())
                assert guard is guards.current
            if number % 50 == 49:
                held = len(pinned) + 1
                await until(lambda: lanes() == held)  # noqa: B023 - called before it changes
                assert len(asyncio.all_tasks()) == tasks + 2 * len(pinned)
                while len(pinned) > 2:
                    pinned.pop().close()
        for stack in pinned:
            stack.close()
        await until(lambda: lanes() == 1)
        assert len(asyncio.all_tasks()) == tasks
        assert guards.reloads_ok == 200


async def test_the_end_waits_for_nobody(file: Path) -> None:
    with ExitStack() as held:
        async with opened(file) as guards:
            held.enter_context(guards.use())
            write(file, rules("purple teapot"))
            assert await guards.reload()
            held.enter_context(guards.use())
    assert len(asyncio.all_tasks()) == 1


# --- when a file is read anew ----------------------------------------------------------------


async def test_a_changed_file_is_read(file: Path) -> None:
    async with opened(file, look_seconds=0.01) as guards:
        first = guards.current
        write(file, rules("purple teapot"))
        await until(lambda: guards.current is not first)
        with file.open("a", encoding="utf-8") as stream:  # in place
            stream.write("\nnonsense: [")
        await until(lambda: guards.last_error is not None)
        write(file, None)
        second = guards.current
        write(file, rules("crimson kettle", "purple teapot"))
        await until(lambda: guards.current is not second)
        assert guards.last_error is None


async def test_links_may_be_swapped_as_kubernetes_does(tmp_path: Path) -> None:
    for number, word in enumerate(["crimson kettle", "purple teapot"]):
        folder = tmp_path / f"..{number}"
        folder.mkdir()
        (folder / "policy.yaml").write_text(json.dumps(rules(word)))
    data = tmp_path / "..data"
    data.symlink_to("..0")
    file = tmp_path / "policy.yaml"
    file.symlink_to("..data/policy.yaml")
    async with opened(file, look_seconds=0.01) as guards:
        first = guards.current
        (tmp_path / "..tmp").symlink_to("..1")
        (tmp_path / "..tmp").replace(data)
        await until(lambda: guards.current is not first)
        assert (await judged(guards.current)).unsafe == 0.0


async def test_a_file_that_is_being_written_is_left_alone(file: Path) -> None:
    """A half of a policy may be a valid one, and a laxer one."""
    looks: list[int] = []
    reads: list[int] = []
    load = module.load_guard

    def look(_: Path) -> tuple[int, int, int, int]:
        looks.append(min(len(looks), 7))  # it grows, until it does not
        return 0, 0, looks[-1], 0

    def read(*args: Any) -> Any:
        reads.append(looks[-1])
        return load(*args)

    guards = opened(file, look_seconds=0.001)
    write(file, rules("purple teapot"))
    with patch.object(module, "_identity", look), patch.object(module, "load_guard", read):
        async with guards:
            first = guards.current
            await until(lambda: guards.current is not first)
            seen = len(looks)
            await until(lambda: len(looks) > seen + 5)
    assert reads == [7]


async def test_a_signal_reloads(file: Path) -> None:
    async with opened(file) as guards:
        first = guards.current
        write(file, rules("purple teapot"))
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: guards.current is not first)
        write(file, "name: [")
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: guards.reloads_failed == 1)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_outside_the_main_thread_there_is_no_signal_and_the_rest_works(file: Path) -> None:
    async def run() -> None:
        async with opened(file, look_seconds=0.01) as guards:
            first = guards.current
            write(file, rules("purple teapot"))
            await until(lambda: guards.current is not first)
        done.append(True)

    done: list[bool] = []
    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    thread.join(20)
    assert done


@pytest.mark.parametrize(
    "change",
    [{"base_url": "there"}, {"timeout_seconds": 2.0}, {"parallel": 3}],
    ids=["base_url", "timeout", "parallel"],
)
async def test_a_guard_model_declared_otherwise_is_asked_so(
    file: Path, change: Mapping[str, Any]
) -> None:
    """Its name and version say nothing of where it is and how long it may take."""
    stages = {key: ["lama"] for key in ("input", "reasoning", "answer")}
    with guard_server(chat("safe")) as here, guard_server(chat("unsafe\nS9")) as there:
        model = {"format": "llama-guard-3", "base_url": here.url, "model": "m"}
        plain = {key: value for key, value in RULES.items() if key != "rules"}
        write(file, {**plain, "judges": stages, "guard_models": {"lama": model}})
        async with opened(file) as guards:
            old = guards.current
            assert not await guards.reload()  # nothing changed
            changed = {**model, **change}
            if "base_url" in change:
                changed["base_url"] = there.url
            write(file, {**plain, "judges": stages, "guard_models": {"lama": changed}})
            with guards.use(old):
                assert await guards.reload()
                assert guards.current.judges is not old.judges
                asked = len(here.asked)
                verdict = await judged(guards.current)
                if "base_url" in change:
                    assert len(here.asked) == asked
                    assert verdict.unsafe is not None
                    assert verdict.unsafe > 0.5
