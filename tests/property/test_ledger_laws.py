"""Laws of the ledger: no edit goes unseen, stages stand in order, a torn line is repaired."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prereg_moe import canonical, ledger
from prereg_moe.errors import Deviated, Tampered
from prereg_moe.registry import Registry

TIME = "2026-01-01T00:00:00Z"
STRAIGHT = ("atlas", "freeze", "start", "finish", "verdict", "report")
FILES = {"registrations/x/frozen.json": "sha256:" + "a" * 64}


def append(data: bytes, kind: str, id_: str = "x", **body: Any) -> bytes:
    return data + ledger.next_line(data, kind, id_, time=TIME, files=FILES, body=body)


def honest(steps: int = len(STRAIGHT), ids: tuple[str, ...] = ("x", "y")) -> bytes:
    """Return a ledger in which several registrations took the straight line side by side."""
    data = b""
    for kind in STRAIGHT[:steps]:
        for id_ in ids:
            data = append(data, kind, id_)
    return data


HONEST = honest()
HEAD = ledger.head(ledger.parse(HONEST))
LINES = HONEST.splitlines(keepends=True)


def seen(data: bytes) -> bool:
    """Whether a reader who was given the head sees that a ledger is not the one it was given for."""
    seals, problems = ledger.examine(data)
    return bool(problems) or ledger.head(seals) != HEAD


def test_the_honest_ledger_holds() -> None:
    assert not seen(HONEST)
    assert [seal.kind for seal in ledger.parse(HONEST) if seal.registration == "x"] == list(STRAIGHT)


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_any_changed_byte_is_seen(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(HONEST) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != HONEST[at]))
    assert seen(HONEST[:at] + bytes([byte]) + HONEST[at + 1 :])


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_added_or_removed_bytes_are_seen(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(HONEST) - 1))
    if data.draw(st.booleans()):
        forged = HONEST[:at] + HONEST[at + data.draw(st.integers(1, 400)) :]
    else:
        forged = HONEST[:at] + data.draw(st.binary(min_size=1, max_size=20)) + HONEST[at:]
    assume(forged != HONEST)
    assert seen(forged)


@given(st.permutations(range(len(LINES))))
def test_any_other_order_of_lines_is_seen(order: list[int]) -> None:
    assume(order != sorted(order))
    assert seen(b"".join(LINES[index] for index in order))


@given(st.lists(st.integers(0, len(LINES) - 1), max_size=len(LINES) + 3))
def test_any_other_choice_of_lines_is_seen(choice: list[int]) -> None:
    assume(choice != list(range(len(LINES))))
    assert seen(b"".join(LINES[index] for index in choice))


@pytest.mark.parametrize("at", range(len(LINES)))
def test_a_line_rewritten_in_its_own_words_breaks_the_chain_behind_it(at: int) -> None:
    document = json.loads(LINES[at])
    document["time"] = "2025-01-01T00:00:00Z"
    lines = [*LINES]
    lines[at] = canonical.dumps(document) + b"\n"
    seals, problems = ledger.examine(b"".join(lines))
    if at + 1 < len(LINES):
        assert [problem.where for problem in problems] == [f"LEDGER.jsonl:{at + 2}"]
    assert problems or ledger.head(seals) != HEAD


def test_a_ledger_rewritten_as_a_whole_is_seen_by_its_head_only() -> None:
    data = b""
    for kind in STRAIGHT:
        for id_ in ("x", "y"):
            data = append(data, kind, id_, rewritten=True)
    assert ledger.examine(data)[1] == []
    assert seen(data)


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3) | st.sampled_from(["freeze", TIME, "x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None, max_examples=300)
@given(
    st.dictionaries(st.sampled_from(["schema", "kind", "registration", "time", "previous", "files", "body"]), values)
)
def test_a_line_of_any_other_shape_is_a_finding_and_no_crash(fields: dict[str, Any]) -> None:
    document = json.loads(LINES[0]) | fields
    assume(document != json.loads(LINES[0]))
    data = canonical.dumps(document) + b"\n" + b"".join(LINES[1:])
    assert seen(data)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=80))
def test_any_bytes_can_be_examined(data: bytes) -> None:
    seals, problems = ledger.examine(data)
    assert seals == ()
    assert bool(problems) == bool(data)


# ------------------------------------------------------------------ the order of stages


LETTERS = dict(zip(ledger.FOLLOWS, "adfmctsleivrx", strict=True))  # atlas, diagnosis, freeze, amend, start, look ...
# The same machine said another way: open, frozen again and again, run with looks, judged, reported, judged again.
_FROZEN = r"ft*(?:m[ad]*ft*)*"
_RUN = r"s[sxt]*(?:l[xt]*s[sxt]*)*(?:[el][xt]*(?:v[rt]*x[xt]*)*(?:v[rt]*)?)?"
_IMPORT = r"it*(?:v[rt]*x[xt]*)*(?:v[rt]*)?"
LEGAL = re.compile(rf"[ad]*(?:{_FROZEN}(?:ct*)?(?:{_RUN}|{_IMPORT})?|{_FROZEN}m[ad]*)?")


class Stages(RuleBasedStateMachine):
    """Any command at any time, on three registrations: the ledger takes what may follow and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.words: dict[str, str] = dict.fromkeys("abc", "")

    @rule(kind=st.sampled_from(sorted(ledger.FOLLOWS)), id_=st.sampled_from("abc"))
    def any_stage(self, kind: str, id_: str) -> None:
        self.take(kind, id_)

    @rule(id_=st.sampled_from("abc"), word=st.sampled_from(["afse", "vrx", "fmf", "sls", "xv", "tct", "fivr"]))
    def a_stretch_of_a_study(self, id_: str, word: str) -> None:
        kinds = {letter: kind for kind, letter in LETTERS.items()}
        for letter in word:
            self.take(kinds[letter], id_)

    def take(self, kind: str, id_: str) -> None:
        before, word = self.data, self.words[id_] + LETTERS[kind]
        if LEGAL.fullmatch(word):
            self.data = append(self.data, kind, id_)
            self.words[id_] = word
            assert self.data.startswith(before)
        else:
            with pytest.raises(Deviated, match="cannot follow"):
                append(self.data, kind, id_)

    @precondition(lambda self: self.data)
    @rule(cut=st.integers(1, 50))
    def a_torn_line_is_no_seal(self, cut: int) -> None:
        torn = self.data[:-cut]
        whole = torn[: torn.rfind(b"\n") + 1]
        assert ledger.parse(torn) == ledger.parse(whole)
        assert bool(ledger.examine(torn)[1]) == (torn != whole)

    @precondition(lambda self: self.data)
    @rule(data=st.data())
    def a_line_left_out_is_seen(self, data: st.DataObject) -> None:
        lines = self.data.splitlines(keepends=True)
        gone = data.draw(st.integers(0, len(lines) - 1))
        seals, problems = ledger.examine(b"".join(lines[:gone] + lines[gone + 1 :]))
        assert problems or ledger.head(seals) != ledger.head(ledger.parse(self.data))

    @invariant()
    def the_chain_holds(self) -> None:
        seals, problems = ledger.examine(self.data)
        assert not problems
        for id_, word in self.words.items():
            assert "".join(LETTERS[seal.kind] for seal in seals if seal.registration == id_) == word
            first = {letter: word.find(letter) for letter in "fsv" if letter in word}
            assert list(first) == sorted(first, key=first.__getitem__), "evidence precedes the freeze"
            if "s" in word:
                assert "m" not in word[word.index("s") :], "amended with evidence"
            assert not re.search(r"x[r]", word), "a report outlives a deviation"


TestStages = Stages.TestCase
TestStages.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


# ------------------------------------------------------------------ on disk


SEAL_TWENTY = f"""
import sys
import time
from pathlib import Path
from prereg_moe.registry import Registry
registry = Registry(Path(sys.argv[1]))
sys.stdin.readline()  # all begin at once
for _ in range(20):
    registry.seal("atlas", sys.argv[2], [], time={TIME!r})
"""


def test_processes_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", SEAL_TWENTY, str(tmp_path), id_], stdin=subprocess.PIPE)
        for id_ in ("x", "y", "z")
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.close()
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    seals = ledger.parse(Registry(tmp_path).ledger())
    assert sorted(seal.registration for seal in seals) == ["x"] * 20 + ["y"] * 20 + ["z"] * 20


SEAL_FOREVER = SEAL_TWENTY.replace("range(20)", "iter(int, 1)")


@pytest.mark.parametrize("milliseconds", [5, 20, 60])
def test_a_process_killed_while_it_appends_leaves_a_ledger_that_goes_on(milliseconds: int, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    head = registry.seal("atlas", "x", [], time=TIME)
    process = subprocess.Popen([sys.executable, "-c", SEAL_FOREVER, str(tmp_path), "y"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    process.stdin.close()
    while ledger.head(ledger.parse(registry.ledger())) == head:
        time.sleep(0.001)
    time.sleep(milliseconds / 1000)
    process.kill()
    process.wait(60)
    before = [line for line in registry.ledger().split(b"\n")[:-1] if line]
    registry.seal("freeze", "x", [], time=TIME)  # the lock went with the process
    assert registry.ledger().splitlines()[:-1] == before
    assert ledger.stage(ledger.parse(registry.ledger()), "x") == "freeze"


@pytest.mark.parametrize("cut", [1, 2, 40, 200])
def test_the_next_append_repairs_a_torn_last_line(cut: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry(tmp_path)
    registry.seal("atlas", "x", [], time=TIME)
    kept = registry.ledger()
    registry.seal("freeze", "x", [], time=TIME)
    registry.ledger_path.write_bytes(registry.ledger()[:-cut])
    assert caplog.messages == []
    head = registry.seal("freeze", "x", [], time=TIME)
    [said] = caplog.messages
    assert said.startswith("LEDGER.jsonl:2: the last line was torn")
    seals = ledger.parse(registry.ledger())
    assert registry.ledger().startswith(kept)
    assert [seal.kind for seal in seals] == ["atlas", "freeze"]
    assert ledger.head(seals) == head


def test_nothing_is_appended_to_a_broken_ledger(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.seal("atlas", "x", [], time=TIME)
    broken = registry.ledger().replace(b'"x"', b'"y"')
    registry.ledger_path.write_bytes(broken + registry.ledger())
    before = registry.ledger()
    with pytest.raises(Tampered):
        registry.seal("freeze", "x", [], time=TIME)
    assert registry.ledger() == before
