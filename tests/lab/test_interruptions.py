"""Whatever is raised, wherever: the model is as it was, nothing is half counted, and the next session works."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from oracles import fingerprint
from tiny_configs import build

from prereg_moe.lab.capture import Recorder
from prereg_moe.lab.intervene import Mask, Scale, intervene
from prereg_moe.lab.models import MoE, discover

IDS = torch.randint(3, 128, (2, 4), generator=torch.Generator().manual_seed(0))
OURS = ("/lab/intervene/", "/lab/capture.py")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, told from one that a person sends."""


def whole(moe: MoE, recorder: Recorder) -> None:
    """A session from its making to its proof, with all that is installed and recorded."""
    layer = moe.indices[-1]
    session = intervene(moe, Mask({layer: [0]}), Scale({layer: [1]}, 0.5), recorder=recorder, padding="none")
    with torch.no_grad(), session:
        moe.model(IDS)
        session.proof()


def followed(moe: MoE, recorder: Recorder, at_line: Callable[[str, int], None]) -> None:
    """The session; ``at_line`` is called with file and number of each line of ours that is about to run."""

    def trace(frame: FrameType, event: str, _arg: Any) -> Any:
        path = frame.f_code.co_filename
        if not any(one in path for one in OURS):
            return None
        if event == "line":
            at_line(path, frame.f_lineno)
        return trace

    sys.settrace(trace)
    try:
        whole(moe, recorder)
    finally:
        sys.settrace(None)


def lines(moe: MoE, recorder: Recorder) -> list[tuple[str, int]]:
    """Each line of ours that a session runs, in the order they are first met."""
    met: dict[tuple[str, int], None] = {}

    def note(path: str, line: int) -> None:
        if linecache.getline(path, line).strip() != "try:":  # which is no instruction
            met[path, line] = None

    followed(moe, recorder, note)
    return list(met)


def interrupt(moe: MoE, recorder: Recorder, where: tuple[str, int]) -> None:
    """The same session, with Ctrl-C the first time it is about to run a line."""

    def stop(path: str, line: int) -> None:
        if (path, line) == where:
            sys.settrace(None)
            raise Interrupted

    followed(moe, recorder, stop)


def sums(recorder: Recorder) -> dict[str, Any]:
    return {name: value.copy() for name, value in recorder.totals().arrays().items()}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("qwen3_moe", "session.py"),
        *(
            pytest.param(name, ".py", marks=pytest.mark.torture)
            for name in ("qwen3_moe", "deepseek_v3", "dbrx", "llama4_text")
        ),
    ],
)
def test_ctrl_c_at_every_line_of_ours(name: str, file: str) -> None:
    moe, recorder = discover(build(name)), Recorder()
    whole(moe, recorder)
    mark, one = fingerprint(moe.model), sums(recorder)
    with torch.no_grad():
        before = moe.model(IDS).logits
    places = [one for one in lines(moe, Recorder()) if one[0].endswith(file)]
    assert len(places) > 80
    for where in places:
        recorder = Recorder()
        with pytest.raises(Interrupted):
            interrupt(moe, recorder, where)
        assert fingerprint(moe.model) == mark, where
        whole(moe, recorder)  # as if nothing had been, or once more where the forward had ended
        times = {1} if recorder.totals().tokens.sum() == one["tokens"].sum() else {2}
        for field, value in sums(recorder).items():
            if field not in {"layers", "experts"}:
                assert any((value == time * one[field]).all() for time in times), (where, field)
    with torch.no_grad():
        assert torch.equal(moe.model(IDS).logits, before)


@pytest.mark.parametrize(
    "name",
    [
        "qwen3_moe",
        "dbrx",
        *(pytest.param(one, marks=pytest.mark.torture) for one in ("deepseek_v3", "zaya", "nemotron_h")),
    ],
)
def test_an_exception_from_every_module_of_the_model(name: str) -> None:
    moe, recorder = discover(build(name)), Recorder(pairs=True)
    whole(moe, recorder)
    mark, one, raised = fingerprint(moe.model), sums(recorder), 0
    for module in moe.model.modules():
        for register in (module.register_forward_pre_hook, module.register_forward_hook):

            def explode(*_: Any) -> None:
                raise Interrupted

            handle = register(explode)
            try:
                whole(moe, recorder)
            except Interrupted:
                raised += 1
            finally:
                handle.remove()
        assert fingerprint(moe.model) == mark, module
    assert raised > 20
    whole(moe, recorder)
    ran = recorder.totals().tokens.sum() // one["tokens"].sum()
    for field, value in sums(recorder).items():
        if field not in {"layers", "experts"}:
            np.testing.assert_array_equal(value, ran * one[field], err_msg=field)


def test_a_sink_that_fails_counts_nothing() -> None:
    moe, seen = discover(build("qwen3_moe")), []

    def sink(routing: Any) -> None:
        seen.append(routing.layer)
        if len(seen) == 2:
            raise Interrupted

    recorder = Recorder(sink=sink)
    with pytest.raises(Interrupted):
        whole(moe, recorder)
    assert recorder.totals().tokens.sum() == 0
    whole(moe, recorder)
    assert (recorder.totals().tokens == IDS.numel()).all()


def test_a_sink_is_not_told_of_a_forward_that_failed() -> None:
    moe, seen = discover(build("qwen3_moe")), []

    def explode(*_: Any) -> None:
        raise Interrupted

    handle = moe.model.get_output_embeddings().register_forward_hook(explode)
    with pytest.raises(Interrupted):
        whole(moe, Recorder(sink=seen.append))
    handle.remove()
    assert not seen
