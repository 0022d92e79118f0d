"""The rules part by part, on effects made by hand: what each part is, what it is compared with, what it decides."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats
from world import registration

from prereg_moe import stats
from prereg_moe.registration import parse
from prereg_moe.registration.schema import ExpressionRule, Inference
from prereg_moe.verdict.decision import Decision, gated
from prereg_moe.verdict.estimate import Effects, Interval, _intervals

deciding = import_module("prereg_moe.verdict.decide")  # the package has a function of that name

ALPHA, FAMILIES, UNITS, DRAWS = 0.05, ("fr", "hi", "zh"), 40, 59
STUDY = parse(registration())
CLAIMS, MODULAR, SELECTIVE = STUDY.claims[0], STUDY.rules["modular"], STUDY.rules["selective"]
INFERENCE = Inference(alpha=ALPHA, resamples=999, escalation=999, seed="5")


def made(on: float = 0.5, off: float = 0.05, null: float = 0.1, *, noise: float = 0.5, seed: int = 0) -> Effects:
    """Return effects of three families; harm varies over items, so that nothing is certain."""
    rng = np.random.default_rng(seed)

    def harm(mean: float, *shape: int) -> np.ndarray:
        return mean + noise * (rng.gamma(2.0, 1.0, (*shape, UNITS)) - 2.0)

    deltas = {f: {axis: harm(on if axis == f else off) for axis in FAMILIES} for f in FAMILIES}
    draws = {f: harm(0.0, DRAWS) / 5 + null * rng.lognormal(-0.08, 0.4, (DRAWS, 1)) for f in FAMILIES}
    return given(deltas, draws)


def undecided() -> Effects:
    """Return effects on which every p lies well between 0 and 1, and no two of a family agree."""
    return made(on=0.9, off=0.08, seed=32)


def given(deltas: dict[str, dict[str, np.ndarray]], null: dict[str, np.ndarray] | None) -> Effects:
    off = {f: tuple(axis for axis in FAMILIES if axis != f) for f in deltas}
    return Effects(CLAIMS, tuple(deltas), {f: f for f in deltas}, off, deltas, null, {})


def decided(
    effects: Effects,
    rule: Any = MODULAR,
    inference: Inference = INFERENCE,
    alpha: float = ALPHA,
    correction: Any = "max_t",
) -> Any:
    return deciding.decide(effects, rule, inference, alpha, correction)


def parts(effects: Effects, kappa: float = 3.0) -> tuple[Any, Any, np.ndarray]:
    """Return what the statistics say of the same effects: random null, selectivity, one-sided t of the effect."""
    own = [effects.deltas[f][f] for f in FAMILIES]
    beats = stats.beats_null(
        own, [effects.null[f] for f in FAMILIES], labels=FAMILIES, min_effect=0.05, seed="5", assignments=999
    )
    others = [{axis: effects.deltas[f][axis] for axis in FAMILIES if axis != f} for f in FAMILIES]
    spared = stats.selective(own, others, kappa=kappa, on_axes=FAMILIES, labels=FAMILIES, resamples=999, seed="5")
    return beats, spared, np.array([scipy_stats.ttest_1samp(x, 0, alternative="greater").pvalue for x in own])


EDGES = [  # each part is the largest p of some family in one of these
    {"on": 0.25, "off": -0.2, "null": 0.1, "noise": 0.2},
    {"on": 0.5, "off": 0.06},
    {"on": 0.16, "off": -0.5, "null": 0.1, "noise": 0.1},
    {"on": 0.1, "off": -0.8, "null": -0.5, "noise": 0.5},
]


@pytest.mark.parametrize("edge", range(len(EDGES)))
def test_a_claims_p_is_the_largest_of_its_parts(edge: int) -> None:
    effects = made(**EDGES[edge], seed=edge)
    beats, spared, harm = parts(effects)
    holm = stats.adjust(harm, "holm")
    for k, (_, decision) in enumerate(decided(effects).items()):
        alone = [beats.p_randomisation[k], beats.p_items[k], harm[k], spared.families[k].p_marginal]
        together = [beats.p_randomisation[k], beats.p_maxt[k], beats.p_items_adjusted[k], holm[k], spared.p[k]]
        assert decision.p == pytest.approx(max(alone))
        assert decision.p_adjusted == pytest.approx(max(together))
        own = effects.deltas[FAMILIES[k]][FAMILIES[k]].mean()
        margin = min(beats.contrast[k] - 0.05, own, spared.families[k].binding.psi)
        assert decision.margin == pytest.approx(margin)
        shown = decision.parts
        assert [shown[name] for name in ("p_randomisation", "p_max_t", "p_items", "p_harm")] == pytest.approx(
            together[:4]
        )
        assert shown["selectivity"]["p"] == spared.p[k]


def test_every_part_is_the_one_that_decides_somewhere() -> None:
    deciders = set()
    for edge, values in enumerate(EDGES):
        effects = made(**values, seed=edge)
        beats, spared, harm = parts(effects)
        rows = np.array([np.maximum(beats.p_randomisation, beats.p_maxt), beats.p_items_adjusted,
                         stats.adjust(harm, "holm"), spared.p])  # fmt: skip
        deciders |= {int(column.argmax()) for column in rows.T if (np.sort(column)[-1] > np.sort(column)[-2])}
    assert deciders == {0, 1, 2, 3}


def test_the_selective_rule_asks_for_an_effect_above_its_minimum_and_for_selectivity() -> None:
    effects = made(on=0.25, off=-0.05, noise=0.3)
    _, spared, _ = parts(effects)
    how: Any = {"resamples": 999, "seed": "5", "sides": "lower"}
    above = [stats.bootstrap(effects.deltas[f][f] - 0.05, labels=("minimum effect", f), **how).p for f in FAMILIES]
    holm = stats.adjust(above, "holm")
    for k, decision in enumerate(decided(effects, SELECTIVE).values()):
        assert decision.p == max(above[k], spared.families[k].p_marginal)
        assert decision.p_adjusted == max(holm[k], spared.p[k])
        own = effects.deltas[FAMILIES[k]][FAMILIES[k]].mean()
        assert decision.margin == pytest.approx(min(own - 0.05, spared.families[k].binding.psi))


@pytest.mark.parametrize("correction", ["none", "holm", "hochberg", "bh"])
def test_another_correction_adjusts_the_largest_p_of_the_parts(correction: str) -> None:
    effects = undecided()
    beats, spared, harm = parts(effects)
    floors = [family.p_floor for family in spared.families]
    claim = np.maximum.reduce([beats.p_randomisation, beats.p_items, harm, floors])
    adjusted = claim if correction == "none" else stats.adjust(claim, correction)
    for k, decision in enumerate(decided(effects, correction=correction).values()):
        assert decision.p == pytest.approx(claim[k])
        assert decision.p_adjusted == pytest.approx(adjusted[k])


def test_a_p_equal_to_alpha_confirms_and_one_above_does_not() -> None:
    effects = undecided()
    for family, decision in decided(effects).items():
        assert 0 < decision.p_adjusted < 1
        assert decided(effects, alpha=decision.p_adjusted)[family].verdict == "CONFIRMED"
        below = decided(effects, alpha=float(np.nextafter(decision.p_adjusted, 0)))[family]
        assert below.verdict == "INCONCLUSIVE"


def test_the_reasons_name_the_parts_above_alpha() -> None:
    names = ("NOT_BEYOND_RANDOM", "NOT_HARMED", "NOT_BEYOND_MINIMUM", "NOT_SELECTIVE")
    seen = set()
    for edge, values in enumerate(EDGES):
        effects = made(**values, seed=edge)
        beats, spared, harm = parts(effects)
        p = np.array([np.maximum(beats.p_randomisation, beats.p_maxt), stats.adjust(harm, "holm"),
                      beats.p_items_adjusted, spared.p])  # fmt: skip
        for k, decision in enumerate(decided(effects).values()):
            if decision.verdict == "INCONCLUSIVE":
                assert decision.reasons == tuple(
                    name for name, value in zip(names, p[:, k], strict=True) if value > ALPHA
                )
                seen |= set(decision.reasons)
    assert seen == set(names)


@pytest.mark.parametrize("kappa", [1.0, 2.0, 4.0])
def test_kappa_is_the_rules(kappa: float) -> None:
    effects = made(on=0.6, off=0.15, noise=0.2)
    _, spared, _ = parts(effects, kappa)
    rule = MODULAR.model_copy(update={"kappa": kappa})
    assert [one.parts["selectivity"]["p"] for one in decided(effects, rule).values()] == spared.p.tolist()


def test_a_larger_minimum_effect_is_harder_to_exceed() -> None:
    effects = made(on=0.5, off=0.0, noise=0.1)
    assert {one.verdict for one in decided(effects).values()} == {"CONFIRMED"}
    much = decided(effects, MODULAR.model_copy(update={"minimum_effect": 0.45})).values()
    assert {one.reasons for one in much} == {("NOT_BEYOND_MINIMUM",)}


# ------------------------------------------------------------------ refutation


def test_harm_elsewhere_refutes_at_a_level_shared_by_the_families() -> None:
    effects = made(on=1.0, off=0.42, null=0.05, noise=0.3, seed=5)
    beats, spared, _ = parts(effects)
    assert beats.p.max() <= 0.02  # the families' own effects are shown at any level used here
    for family, p in zip(FAMILIES, spared.p_refute.tolist(), strict=True):
        assert 0.02 < p < 0.2
        at = decided(effects, alpha=len(FAMILIES) * p * (1 + 1e-9))[family]
        assert (at.verdict, at.reasons) == ("REFUTED", ("HARMS_ANOTHER_AXIS",))
        below = decided(effects, alpha=len(FAMILIES) * p * (1 - 1e-9))[family]
        assert (below.verdict, below.reasons) == ("INCONCLUSIVE", ("NOT_SELECTIVE",))


@pytest.mark.parametrize("correction", ["max_t", "none"])
def test_harm_elsewhere_refutes_nothing_where_the_own_effect_is_not_shown(correction: str) -> None:
    effects = made(on=0.3, off=1.0, null=0.3, noise=0.3)
    _, spared, harm = parts(effects)
    assert (spared.p_refute <= ALPHA / 3).all()
    assert (harm <= ALPHA).all()  # harmed, but no more than by random experts
    for decision in decided(effects, correction=correction).values():
        assert decision.verdict == "INCONCLUSIVE"
        assert "NOT_BEYOND_RANDOM" in decision.reasons


@pytest.mark.parametrize("rule", [MODULAR, SELECTIVE], ids=lambda rule: rule.kind)
def test_no_effect_is_refuted_where_its_excess_lies_inside_the_minimum(rule: Any) -> None:
    effects = made(on=0.0, off=0.0, null=0.0, noise=0.04)
    null = effects.null if rule is MODULAR else None
    own = [effects.deltas[f][f] for f in FAMILIES]
    p = stats.within_margin(
        own if null is None else [x - null[f].mean(axis=0) for f, x in zip(FAMILIES, own, strict=True)],
        None if null is None else [null[f].mean(axis=1) for f in FAMILIES],
        margin=0.05,
        axes=FAMILIES,
        alpha=0.9,
        resamples=999,
        seed="5",
    )
    for family, value in zip(FAMILIES, p.tolist(), strict=True):
        assert 0 < value < 0.5
        for alpha in (value * (1 + 1e-9), 0.49):
            at = decided(effects, rule, alpha=alpha)[family]
            assert (at.verdict, at.reasons) == ("REFUTED", ("NO_EFFECT",))
        assert decided(effects, rule, alpha=value * (1 - 1e-9))[family].verdict == "INCONCLUSIVE"


# ------------------------------------------------------------------ escalation, flags


def test_a_p_near_alpha_is_decided_by_more_resamples() -> None:
    effects = undecided()
    few = decided(effects)
    alpha = few["hi"].p_adjusted
    more = Inference(alpha=ALPHA, resamples=1999, escalation=1999, seed="5")
    escalating = Inference(alpha=ALPHA, resamples=999, escalation=1999, seed="5")
    assert "MONTE_CARLO" in decided(effects, alpha=alpha)["hi"].flags
    assert decided(effects, inference=escalating, alpha=alpha) == decided(effects, inference=more, alpha=alpha)
    sure = made(on=2.0, off=0.0, noise=0.1)
    assert all("MONTE_CARLO" not in one.flags for one in decided(sure).values())
    assert decided(sure, inference=escalating) == decided(sure)


def test_flags_are_raised_at_their_bars() -> None:
    effects = undecided()
    before = decided(effects)
    for family, decision in before.items():
        skew = -decision.parts["selectivity"]["skew"]
        p, welch = decision.p_adjusted, decision.parts["selectivity"]["p_welch"]
        selectivity = decision.parts["selectivity"]["p"]

        def flagged(flag: str, alpha: float = ALPHA, family: str = family, **changes: Any) -> bool:
            inference = INFERENCE.model_copy(update=changes)
            return flag in decided(effects, inference=inference, alpha=alpha)[family].flags

        assert not flagged("FEW_UNITS", few_units=UNITS)
        assert flagged("FEW_UNITS", few_units=UNITS + 1)
        assert flagged("SKEW", skew_guard=abs(skew) - 1e-9) == (skew > 0)
        assert not flagged("SKEW", skew_guard=abs(skew))
        between, above = (welch + selectivity) / 2, max(welch, selectivity) + 1e-9
        assert flagged("METHOD", between) == (welch != selectivity)
        assert not flagged("METHOD", above)
        z = scipy_stats.norm.isf(p)
        for distance, held in ((0.19, True), (0.21, False)):
            for side in (-1, 1):
                assert flagged("KNIFE_EDGE", float(scipy_stats.norm.sf(z + side * distance))) == held
        for errors, held in ((2.9, True), (3.1, False), (-2.9, True), (-3.1, False)):
            alpha = p
            for _ in range(50):  # the alpha so many of its own standard errors away
                alpha = p + errors * float(np.sqrt(alpha * (1 - alpha) / 999))
            assert flagged("MONTE_CARLO", alpha) == held


@pytest.mark.parametrize(("units", "ends"), [(1, (None, None)), (2, (-1.0, 1.0))])
def test_two_units_have_an_interval_and_one_has_none(units: int, ends: tuple[float | None, float | None]) -> None:
    document = registration()
    document["inference"]["interval"] = {"kind": "percentile"}
    study = parse(document)
    deltas = {"family": dict.fromkeys(study.axes, np.array([-1.0, 1.0])[:units])}
    for interval in _intervals(study, deltas)["family"].values():
        assert (interval.low, interval.high, interval.units) == (*ends, units)


def test_too_few_units_decide_nothing() -> None:
    deltas = {f: {axis: np.array([1.0]) for axis in FAMILIES} for f in FAMILIES}
    for decision in decided(given(deltas, None), SELECTIVE).values():
        assert (decision.verdict, decision.reasons) == ("INCONCLUSIVE", ("TOO_FEW_UNITS",))


@pytest.mark.parametrize("rule", [MODULAR, SELECTIVE], ids=lambda rule: rule.kind)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_what_does_not_vary_confirms_nothing_and_refutes_nothing(rule: Any, value: float) -> None:
    deltas = {f: {axis: np.full(UNITS, value * (axis == f)) for axis in FAMILIES} for f in FAMILIES}
    null = {f: np.zeros((DRAWS, UNITS)) for f in FAMILIES}
    for decision in decided(given(deltas, null), rule).values():
        assert decision.verdict == "INCONCLUSIVE"


# ------------------------------------------------------------------ expressions, controls


def test_the_worst_off_axis_is_the_most_harmed() -> None:
    intervals = {
        "fr": Interval(1.0, 0.9, 1.1, 40),
        "hi": Interval(0.3, 0.29, 0.31, 40),
        "zh": Interval(0.2, 0.0, 0.4, 40),
    }
    effects = Effects(CLAIMS, ("fr",), {"fr": "fr"}, {"fr": ("hi", "zh")}, {}, None, {"fr": intervals})
    assert deciding.worst(effects, "fr") == ("hi", intervals["hi"])
    assert deciding.worst(effects, "fr", "upper_bound") == ("zh", intervals["zh"])
    unknown = intervals | {"hi": Interval(0.3, None, None, 1)}
    effects = Effects(CLAIMS, ("fr",), {"fr": "fr"}, {"fr": ("hi", "zh")}, {}, None, {"fr": unknown})
    assert deciding.worst(effects, "fr", "upper_bound")[0] == "hi"


@pytest.mark.parametrize(
    ("confirm", "refute", "verdict", "reason", "margin"),
    [
        ("on.est > 0.5", None, "CONFIRMED", "EXPRESSION_TRUE", 0.5),
        ("on.est > 1.5", None, "INCONCLUSIVE", "EXPRESSION_FALSE", -0.5),
        ("on.est > off.hi", None, "INCONCLUSIVE", "EXPRESSION_UNKNOWN", None),
        ("on.est > 1.5", "off.est > 0.1", "REFUTED", "REFUTING_EXPRESSION_TRUE", -0.5),
        ("on.est > 1.5", "off.est > 0.5", "INCONCLUSIVE", "EXPRESSION_FALSE", -0.5),
        ("on.est > 0.5", "off.est > 0.1", "CONFIRMED", "EXPRESSION_TRUE", 0.5),
    ],
)
def test_an_expression_confirms_only_where_it_is_true(
    confirm: str, refute: str | None, verdict: str, reason: str, margin: float | None
) -> None:
    intervals = {"fr": Interval(1.0, 0.9, 1.1, 40), "hi": Interval(0.3, None, None, 40)}
    deltas = {"fr": {"fr": np.zeros(40), "hi": np.zeros(40)}}
    effects = Effects(CLAIMS, ("fr",), {"fr": "fr"}, {"fr": ("hi",)}, deltas, None, {"fr": intervals})
    rule = ExpressionRule(kind="expression", confirm=confirm, refute=refute)
    [decision] = decided(effects, rule).values()
    assert (decision.verdict, decision.reasons) == (verdict, (reason,))
    assert decision.flags == ("UNCORRECTED",)
    assert decision.margin == (None if margin is None else pytest.approx(margin))


def test_an_expression_that_rounding_can_turn_is_on_a_knifes_edge() -> None:
    def flags(on: float) -> tuple[str, ...]:
        intervals = {"fr": Interval(on, 0.9, 1.1, 40), "hi": Interval(0.3, 0.2, 0.4, 40)}
        deltas = {"fr": {"fr": np.zeros(40), "hi": np.zeros(40)}}
        effects = Effects(CLAIMS, ("fr",), {"fr": "fr"}, {"fr": ("hi",)}, deltas, None, {"fr": intervals})
        [decision] = decided(effects, ExpressionRule(kind="expression", confirm="on.est > 0.5")).values()
        return decision.flags

    assert [("KNIFE_EDGE" in flags(on)) for on in (0.494, 0.496, 0.504, 0.506)] == [False, True, True, False]


def test_failed_controls_make_a_decision_invalid() -> None:
    confirmed = Decision("CONFIRMED", ("ALL_PARTS_HOLD",), ("SKEW",), p=0.01)
    assert gated(confirmed, ()) == confirmed
    stopped = gated(confirmed, ("POSITIVE_CONTROL_FAILED",))
    assert (stopped.verdict, stopped.reasons, stopped.p) == ("INVALID", ("POSITIVE_CONTROL_FAILED",), 0.01)
