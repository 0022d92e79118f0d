"""Interim looks: taken where they are registered, paid for, and never wrong more often than alpha in all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from world import AXES, ID, ITEMS, NOTHING, TIME, Effect, World, registration

from prereg_moe import canonical, ledger, load, stages, store
from prereg_moe.errors import Deviated, Invalid, NotCheckable
from prereg_moe.registration import boundaries, level, parse
from prereg_moe.registration.looks import spent

DEVIATED = 5


def with_looks(*at: float, spending: str = "pocock") -> Callable[[dict[str, Any]], Any]:
    def edit(made: dict[str, Any]) -> None:
        made["stopping"] = {"kind": "looks", "at": list(at), "spending": spending}
        made["controls"]["null"]["draws"] = 150

    return edit


@pytest.fixture
def looking(authored: World) -> World:
    """A frozen world whose study may look at half of its items."""
    authored.author(with_looks(0.5))
    authored.record()
    authored.freeze()
    return authored


def compute(world: World, part: int) -> None:
    """Start a run and write the evidence of one part of the items."""
    frozen = world.frozen
    world.registry.seal("start", ID, [], time=TIME, body={"missing": 1})
    for condition in frozen.plan.values():
        if condition.measure.endswith(f"@{part}"):
            canonical.write(world.file(condition), world.made(frozen, condition))


def look(world: World) -> dict[str, Any]:
    return dict(stages.look(world.registry, ID, time=TIME)[0].document)


def blocks(document: dict[str, Any], block: str) -> list[dict[str, Any]]:
    return [entry for entry in document["verdicts"] if entry["block"] == block]


# ------------------------------------------------------------------ spending


@settings(deadline=None)
@given(
    st.sampled_from(["obrien_fleming", "pocock"]), st.floats(1e-4, 0.2), st.floats(0.05, 0.99), st.floats(0.05, 0.99)
)
def test_spending_rises_to_alpha(spending: str, alpha: float, s: float, t: float) -> None:
    low, high = sorted((s, t))
    assert 0 <= spent(spending, alpha, low) <= spent(spending, alpha, high) < alpha
    assert spent(spending, alpha, 1.0) == alpha


@pytest.mark.parametrize("t", [0.2, 0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("alpha", [0.05, 0.025, 0.01])
def test_spending_is_that_of_lan_and_demets(alpha: float, t: float) -> None:
    assert spent("obrien_fleming", alpha, t) == pytest.approx(
        2 - 2 * ndtr(ndtri(1 - alpha / 2) / math.sqrt(t)), rel=1e-9
    )
    assert spent("pocock", alpha, t) == pytest.approx(alpha * math.log(1 + (math.e - 1) * t), rel=1e-12)


def made(*at: float, spending: str = "obrien_fleming") -> Any:
    document = registration()
    with_looks(*at, spending=spending)(document)
    document["controls"]["null"]["draws"] = 100_000
    document["inference"] |= {"resamples": 99_999, "escalation": 99_999}
    return parse(document)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_whichever_looks_are_taken_their_levels_come_to_alpha_at_most(data: st.DataObject) -> None:
    spending = data.draw(st.sampled_from(["obrien_fleming", "pocock"]))
    planned = made(0.4, 0.6, 0.8, spending=spending)
    taken = sorted(data.draw(st.sets(st.integers(1, 3))))
    levels = [level(planned, 0.05, number, taken) for number in [*taken, None]]
    assert all(value > 0 for value in levels)
    assert math.fsum(levels) <= 0.05 + 1e-15
    assert math.fsum(levels) == pytest.approx(0.05, abs=1e-10), "and waste nothing"
    if not taken:
        assert levels == [0.05], "a study that never looks pays nothing"


@pytest.mark.parametrize("spending", ["obrien_fleming", "pocock"])
def test_the_error_over_all_looks_stays_below_alpha(spending: str) -> None:
    """Group-sequential z tests of growing means under the null: 200,000 studies, three looks."""
    planned, alpha = made(0.4, 0.7, spending=spending), 0.05
    levels = [level(planned, alpha, number, (1, 2)) for number in (1, 2, None)]
    rng = np.random.default_rng(7)
    fractions = np.array([0.4, 0.7, 1.0])
    steps = rng.standard_normal((200_000, 3)) * np.sqrt(np.diff(fractions, prepend=0.0))
    z = np.cumsum(steps, axis=1) / np.sqrt(fractions)
    wrong = (z > ndtri(1 - np.array(levels))).any(axis=1).mean()
    naive = (z > ndtri(1 - alpha)).any(axis=1).mean()
    assert wrong <= alpha + 3 * math.sqrt(alpha / 200_000)
    assert naive > 1.5 * alpha, "looking without paying is wrong too often"


# ------------------------------------------------------------------ what can be registered


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (with_looks(0.5, 0.25), "does not rise"),
        (with_looks(0.05), "every part needs items"),
        (with_looks(0.45, 0.46), "every part needs items"),
        (with_looks(0.2, spending="obrien_fleming"), "give no p below"),
        (lambda made: with_looks(0.5)(made) or made["controls"]["null"].update(draws=30), "cannot bring"),
        (
            lambda made: with_looks(0.5)(made) or made.update(diagnosis={"studies": 20, "scenarios": ["normal"]}),
            "judged once",
        ),
    ],
)
def test_looks_that_could_not_be_kept_are_refused(edit: Any, words: str) -> None:
    document = registration()
    edit(document)
    with pytest.raises(Invalid, match=words):
        parse(document)


def test_every_part_of_a_measure_is_scored_like_a_measure(looking: World) -> None:
    frozen = looking.frozen
    assert boundaries(frozen.registration, "nll") == (ITEMS // 2, ITEMS)
    whole = frozen.items("nll")
    for axis in AXES:
        assert frozen.items("nll@1")[axis] + frozen.items("nll@2")[axis] == whole[axis]
        assert frozen.first(1).items("nll")[axis] == whole[axis][: ITEMS // 2]
    part = frozen.run_as.measures["nll_a@2"]
    assert (part.skip, part.items) == (8 + ITEMS // 2, ITEMS // 2)
    assert len(frozen.plan) == 2 * len(frozen.judged)
    assert [c.measure[-2:] for c in frozen.plan.values()] == ["@1"] * len(frozen.judged) + ["@2"] * len(frozen.judged)
    assert list(frozen.first(1).plan) == list(frozen.plan)[: len(frozen.judged)]
    assert load(looking.folder / "registration.yaml") == frozen.registration


# ------------------------------------------------------------------ taking them


def test_a_study_without_looks_refuses_one(computed: World, run_cli: Callable[..., Any]) -> None:
    before = computed.registry.ledger()
    said = run_cli("look", ID, "--root", computed.root)
    assert (said.code, "has no interim look registered" in said.err) == (DEVIATED, True), said.err
    assert computed.registry.ledger() == before


def test_nothing_is_shown_before_a_look_is_complete(looking: World) -> None:
    looking.registry.seal("start", ID, [], time=TIME, body={"missing": 1})
    with pytest.raises(NotCheckable, match="not all evidence of a look"):
        look(looking)
    with pytest.raises(NotCheckable, match="is not finished"):
        store.gather(looking.registry, looking.frozen)
    assert looking.audit().exit_code == 0


def test_a_look_decides_and_the_rest_is_judged_at_what_is_left(looking: World, run_cli: Callable[..., Any]) -> None:
    compute(looking, 1)
    first = look(looking)
    assert {entry["verdict"] for entry in blocks(first, "main")} == {"CONFIRMED"}
    assert {entry["alpha"] for entry in blocks(first, "main")} == {level(looking.frozen.registration, 0.05, 1, [1])}
    assert {entry["alpha"] for entry in blocks(first, "planted")} == {0.05}, "controls do not pay"
    assert {entry["estimates"]["on"]["units"] for entry in blocks(first, "main")} == {ITEMS // 2}
    assert first["record"]["sees"] == [0.5]
    assert looking.audit().exit_code == 0, looking.audit()
    with pytest.raises(Deviated, match="look 1 is spent"):
        look(looking)
    compute(looking, 2)
    with pytest.raises(NotCheckable, match="is not finished"):
        looking.judge()
    assert looking.audit().exit_code == 0, looking.audit()
    store.finish(looking.registry, looking.frozen, time=TIME)
    with pytest.raises(Deviated, match=r"is not at a look|is spent"):
        look(looking)
    last = looking.judge().document
    assert {entry.get("look") for entry in blocks(last, "main")} == {1}, "what was decided stays"
    assert blocks(last, "main") == [{**entry, "look": 1} for entry in blocks(first, "main")]
    assert {entry["alpha"] for entry in blocks(last, "planted")} == {0.05}
    [said] = last["record"]["looks"]
    assert said["look"] == 1
    assert {f"main.{axis}" for axis in AXES} <= set(said["decided"])
    looking.report()
    result = looking.audit(ledger.head(ledger.parse(looking.registry.ledger())))
    assert [f for f in result.findings if f.outcome != "holds"] == []
    for format_ in ("md", "html"):
        assert "Look 1" in (looking.registry.reports(ID) / f"report.{format_}").read_text("utf-8")
    assert "1 interim look is spent" in run_cli("status", "--root", looking.root).out


def test_a_study_may_stop_at_a_look(looking: World) -> None:
    compute(looking, 1)
    seen = look(looking)
    last = looking.judge().document
    assert last == seen
    assert last["record"]["sees"] == [0.5]
    looking.report()
    assert "Stopped" in (looking.registry.reports(ID) / "report.md").read_text("utf-8")
    result = looking.audit(ledger.head(ledger.parse(looking.registry.ledger())))
    assert [f for f in result.findings if f.outcome != "holds"] == []


def test_a_look_that_was_not_taken_costs_nothing(looking: World) -> None:
    compute(looking, 1)
    compute(looking, 2)
    store.finish(looking.registry, looking.frozen, time=TIME)
    document = looking.judge().document
    assert {entry["alpha"] for entry in blocks(document, "main")} == {0.05}
    assert {entry["estimates"]["on"]["units"] for entry in blocks(document, "main")} == {ITEMS}
    assert "looks" not in document["record"]


def test_what_a_look_leaves_open_is_judged_at_the_end(authored: World) -> None:
    world = World(authored.root, {**authored.effects, "standard": Effect(own=0.25, spread=0.25)})
    world.author(with_looks(0.5))
    world.record()
    world.freeze()
    compute(world, 1)
    first = {entry["claim"]: entry["verdict"] for entry in look(world)["verdicts"]}
    compute(world, 2)
    store.finish(world.registry, world.frozen, time=TIME)
    last = world.judge().document
    spent_level = level(world.frozen.registration, 0.05, None, [1])
    for entry in blocks(last, "main"):
        open_ = first[entry["claim"]] == "INCONCLUSIVE"
        assert entry.get("look") == (None if open_ else 1)
        assert not open_ or entry["alpha"] == spent_level
    assert 0 < spent_level < 0.05
    assert any(verdict == "INCONCLUSIVE" for claim, verdict in first.items() if claim.startswith("main"))


def test_a_control_that_fails_at_the_end_undoes_what_a_look_decided(authored: World) -> None:
    world = World(authored.root)
    world.author(with_looks(0.5))
    world.record()
    world.freeze()
    compute(world, 1)
    assert {entry["verdict"] for entry in blocks(look(world), "main")} == {"CONFIRMED"}
    later = World(world.root, {**world.effects, "planted": NOTHING})
    compute(later, 2)
    store.finish(world.registry, world.frozen, time=TIME)
    document = world.judge().document
    if not document["controls"][0]["holds"]:
        assert {entry["verdict"] for entry in blocks(document, "main")} == {"INVALID"}
    else:
        pytest.fail("the positive control was to fail")


def test_an_edited_look_is_found(looking: World) -> None:
    compute(looking, 1)
    look(looking)
    path = looking.registry.reports(ID) / "looks/1.json"
    path.write_bytes(path.read_bytes().replace(b"CONFIRMED", b"REFUTED", 1))
    result = looking.audit()
    assert result.exit_code == 3
    assert any("looks/1.json" in detail for finding in result.findings for detail in finding.details)


def test_a_look_sealed_by_hand_where_none_is_registered_is_found(frozen: World) -> None:
    frozen.registry.seal("start", ID, [], time=TIME, body={"missing": 1})
    frozen.registry.seal("look", ID, [], time=TIME, body={"look": 1})
    frozen.registry.seal("start", ID, [], time=TIME, body={"missing": 1})
    frozen.compute()
    store.finish(frozen.registry, frozen.frozen, time=TIME)
    with pytest.raises(Deviated, match="is not registered"):
        frozen.judge()
    assert frozen.audit().exit_code != 0
