"""Diagnosis: simulated studies are what they say, their figures agree with theory, and freezing heeds them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import binomtest, norm, skew
from world import AXES, ID, TIME, World, registration

from prereg_moe import canonical, ledger
from prereg_moe.diagnosing import diagnose, figures
from prereg_moe.diagnosing.design import SCENARIOS, Design, Scales, Spread, Truth, blocks_of, harms
from prereg_moe.diagnosing.simulation import simulate
from prereg_moe.diagnosing.stage import diagnose_registered, pilot_scales
from prereg_moe.errors import Deviated, Invalid, NotCheckable, Tampered
from prereg_moe.freezing import check, freeze, load_frozen, unmet_demands
from prereg_moe.registration import Registration, expand, load, parse

SECTION = {"studies": 20, "scenarios": ["normal"], "resamples": 199}


def study(**changes: Any) -> Registration:
    """Return the world's registration without its controls, with other parts."""
    document = registration() | changes
    document["claims"] = document["claims"][:1]
    document["replication"] = []
    document["controls"] = {"null": document["controls"]["null"]}
    return parse(document)


def one_family(items: int) -> Registration:
    """Return one family, one off-axis, the selective rule: what theory can say."""
    document = registration()
    del document["axes"]["code"]
    document["families"][0]["axes"] = ["no"]
    document["measures"] = {"nll": document["measures"]["nll"] | {"items": items}}
    document["claims"] = [document["claims"][0] | {"rule": "selective"}]
    document |= {"replication": [], "controls": {}}
    return parse(document)


# ------------------------------------------------------------------ what is simulated


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "pilot"])
def test_simulated_harm_has_the_planned_mean_and_spread(name: str) -> None:
    made = study(measures={"nll": registration()["measures"]["nll"] | {"items": 40_000}})
    block = blocks_of(made)[0]
    simulated = simulate(Design(made, "1", 999), block, name, Truth("planned"), 0)
    scenario, on = SCENARIOS[name], simulated.deltas["no"]["no"]
    variance = math.expm1(0.16 + (scenario.u_on**2 if scenario.shape == "lognormal" else 0.36))
    variance = (1 + variance) * math.exp(scenario.cluster_sigma**2) - 1
    assert on.mean() == pytest.approx(1.2, rel=0.04)
    assert on.std() == pytest.approx(math.hypot(1.2 * math.sqrt(variance), 0.1), rel=0.4 if scenario.u_on > 1 else 0.15)
    assert simulated.deltas["no"]["en"].mean() == pytest.approx(0.2, rel=0.06)
    draws = simulated.null["no"].mean(axis=1)
    assert draws.std(ddof=1) / draws.mean() == pytest.approx(0.4, abs=0.2)


def test_a_pilots_spread_and_skew_are_simulated() -> None:
    made = study(measures={"nll": registration()["measures"]["nll"] | {"items": 40_000}})
    spreads = {axis: Spread(0.7, -1.5) for axis in AXES}
    scales = Scales({"registration": "r", "evidence": "e"}, spreads, {a: Spread(0.1, 0.0) for a in AXES}, 0.02)
    simulated = simulate(Design(made, "1", 999, {}, scales), blocks_of(made)[0], "pilot", Truth("planned"), 0)
    on, off = simulated.deltas["no"]["no"], simulated.deltas["no"]["en"]
    assert (on.mean(), on.std(), skew(on)) == pytest.approx((1.2, 0.7, -1.5), rel=0.1)
    assert (off.mean(), off.std(), skew(off)) == pytest.approx((0.2, 0.1, 0.0), rel=0.1, abs=0.05)
    assert simulated.null["no"].mean(axis=1).std(ddof=1) == pytest.approx(0.02, rel=0.4)


def test_correlated_draws_vary_together() -> None:
    made = study(measures={"nll": registration()["measures"]["nll"] | {"items": 4_000}})
    block = blocks_of(made)[0]

    def correlation(name: str) -> float:
        null = simulate(Design(made, "1", 999), block, name, Truth("planned"), 0).null["no"]
        return float(np.corrcoef(null)[np.triu_indices(len(null), 1)].mean())

    assert correlation("correlated_draws") > correlation("skewed") + 0.03


def test_clusters_are_averaged_to_units() -> None:
    measure = registration()["measures"]["nll"] | {"unit": "cluster", "cluster": "book"}
    made = study(measures={"nll": measure})
    sizes = {"nll": dict.fromkeys(AXES, (3, 4, 5))}
    block = blocks_of(made)[0]
    items = simulate(Design(study(), "1", 999), block, "skewed", Truth("planned"), 3)
    units = simulate(Design(made, "1", 999, sizes), block, "skewed", Truth("planned"), 3)
    by_item, by_unit = items.deltas["en"]["no"], units.deltas["en"]["no"]
    assert by_unit == pytest.approx([by_item[:3].mean(), by_item[3:7].mean(), by_item[7:].mean()])
    assert units.null["en"].shape == (30, 3)


def test_each_truth_is_where_it_says() -> None:
    block = blocks_of(study())[0]
    at = {kind: harms(block, Truth(kind), AXES) for kind in ("selectivity", "minimum_effect", "planned")}
    assert at["selectivity"]["no"] == pytest.approx({"no": 1.2, "en": 0.1, "code": 0.4} | _bound(block, "no"))
    assert at["minimum_effect"]["en"] == pytest.approx({"en": 0.05 + 0.1, "no": 0.0, "code": 0.0})
    assert harms(block, Truth("planned", 0.5), AXES)["en"] == pytest.approx({"en": 0.6, "no": 0.1, "code": 0.1})
    for family, means in at["selectivity"].items():
        own = block.axis[family]
        assert sorted(means[own] - 3 * means[axis] > 1e-9 for axis in block.off[family]) == [False, True]


def _bound(block: Any, family: str) -> dict[str, float]:
    others = block.off[family]
    bound = others[list(block.axis).index(family) % len(others)]
    return {axis: 0.4 if axis == bound else 0.1 for axis in others}


# ------------------------------------------------------------------ figures


@pytest.mark.parametrize(("hits", "of"), [(0, 20), (3, 20), (20, 20), (77, 2000)])
def test_rates_have_clopper_pearson_intervals(hits: int, of: int) -> None:
    expected = binomtest(hits, of).proportion_ci(0.95, method="exact")
    found = figures.rate(hits, of)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_shares_count_every_study_once() -> None:
    hits, among = np.array([[1, 1], [1, 0], [0, 0]]), np.array([[1, 1], [1, 0], [0, 0]], dtype=bool)
    assert figures.shares(hits)["estimate"] == pytest.approx(0.5)
    assert figures.shares(hits, among) == figures.rate(2, 2)
    assert figures.shares(hits, np.zeros_like(among)) is None


def test_the_figures_agree_with_theory() -> None:
    """One family, one off-axis, normal harm: ψ over its standard error is close to normal."""
    studies = 300
    document = diagnose(one_family(40), ["normal"], studies=studies, seed="3").document["scenarios"]["normal"]
    cv = math.sqrt(math.expm1(0.52))
    variance = [(mean * cv) ** 2 + 0.01 for mean in (1.2, 0.2)]
    bar = norm.isf(0.05 / (1 + 15 / 40))  # the floor of a small sample
    power = norm.sf(bar - (1.2 - 3 * 0.2) / math.sqrt((variance[0] + 9 * variance[1]) / 40))
    assert document["power"]["each"]["estimate"] == pytest.approx(power, abs=0.05)
    assert document["coverage"]["on"]["estimate"] == pytest.approx(0.95, abs=0.035)
    assert document["family_wise_error"]["selectivity"]["low"] <= norm.sf(bar)
    assert document["family_wise_error"]["selectivity"]["high"] >= norm.sf(bar)
    assert document["flips"]["estimate"] == pytest.approx(2 * power * (1 - power), abs=0.1)
    assert document["exaggeration"]["estimate"] == pytest.approx(1.0, abs=0.06)
    assert document["type_s"]["estimate"] <= 0.02
    detectable = document["minimum_detectable_effect"]
    assert detectable["reached"]["estimate"] >= 0.8 > detectable["below"]["estimate"]
    assert detectable["effects"]["main"] == pytest.approx(1.2 * detectable["factor"])


def test_a_family_is_replicated_by_the_partial_conjunction_of_its_blocks() -> None:
    p = [np.array([[0.01, 0.04, np.nan]]), np.array([[0.02, 0.06, 0.01]]), np.array([[0.9, 0.03, 0.01]])]
    assert figures.replicated(p, 3, 0.05).tolist() == [[False, False, False]]
    assert figures.replicated(p, 2, 0.05).tolist() == [[True, False, False]]  # 2 p_(2): .04, .08, unknown
    assert figures.replicated(p, 1, 0.05).tolist() == [[True, False, False]]  # 3 p_(1): .03, .09, unknown


def test_exploratory_blocks_and_replications_are_simulated() -> None:
    document = registration() | {"diagnosis": SECTION}
    document["claims"] = [document["claims"][0], document["claims"][3]]
    document["controls"] = {"null": document["controls"]["null"]}
    found = diagnose(parse(document)).document["scenarios"]["normal"]
    assert set(found["blocks"]) == {"main", "again"}
    both = found["replications"]["both"]["power"]["each"]
    assert both["of"] == 20
    alone = [found["blocks"][name]["power"]["each"]["estimate"] for name in ("main", "again")]
    assert 0 < both["estimate"] <= min(alone) + 0.1  # the skew guard holds back a verdict, not its p
    wrong = found["replications"]["both"]["family_wise_error"]
    assert set(wrong) == {"selectivity", "minimum_effect"}
    assert all(rate["estimate"] <= 0.2 for rate in wrong.values())
    document["claims"], document["replication"] = document["claims"][:1], []
    without = diagnose(parse(document)).document["scenarios"]["normal"]
    assert "replications" not in without
    for name in ("family_wise_error", "power", "flips", "minimum_detectable_effect"):
        assert without[name] == found[name], "an exploratory block changes nothing of the confirmatory ones"


def test_simulated_studies_escalate_in_the_registered_proportion() -> None:
    inference = registration()["inference"] | {"resamples": 9999, "escalation": 99999}
    assert Design(study(inference=inference), "1", 999).escalation == 9990
    assert Design(study(), "1", 199).escalation == 199


# ------------------------------------------------------------------ determinism


def test_the_number_of_workers_and_the_order_of_scenarios_cannot_change_a_figure() -> None:
    made = study(diagnosis=SECTION | {"scenarios": ["normal", "skewed"]})
    once = diagnose(made)
    assert diagnose(made, workers=2).bytes == once.bytes
    assert diagnose(made, ["skewed"]).document["scenarios"]["skewed"] == once.document["scenarios"]["skewed"]
    assert diagnose(made, seed="12").bytes != once.bytes


def test_progress_ends_at_its_total() -> None:
    seen: list[tuple[int, int]] = []
    made = study(diagnosis=SECTION)
    diagnose(made, progress=lambda done, total, _: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert sorted(seen) == seen


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("section", "where"),
    [
        ({"studies": 5}, "diagnosis.studies"),
        ({"scenarios": []}, "diagnosis.scenarios"),
        ({"scenarios": ["gloomy"]}, "diagnosis.scenarios[0]"),
        ({"scenarios": ["normal", "normal"]}, "diagnosis.scenarios"),
        ({"resamples": 10}, "diagnosis.resamples"),
        ({"demand": {"fwer_at_most": 0}}, "diagnosis.demand.fwer_at_most"),
        ({"on_failure": "hope"}, "diagnosis.on_failure"),
        ({"effects": {"unheard": {"on": 1, "off": 0}}}, "diagnosis.effects.unheard"),
        ({"effects": {"nll": {"on": 0.6, "off": 0.2}}}, "diagnosis.effects.nll"),
        ({"effects": {"nll": {"on": 0.6, "off": 0, "random": 0.55}}}, "diagnosis.effects.nll"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused(section: dict[str, Any], where: str) -> None:
    with pytest.raises(Invalid) as refused:
        study(diagnosis=SECTION | section)
    assert where in [problem.where for problem in refused.value.problems]


def test_what_cannot_be_simulated_is_refused() -> None:
    clustered = registration()["measures"]["nll"] | {"unit": "cluster", "cluster": "book"}
    made = study(measures={"nll": clustered})
    with pytest.raises(Invalid) as refused:
        diagnose(made, ["pilot"], studies=5)
    assert [problem.where for problem in refused.value.problems] == ["studies", "scenarios", "measures.nll"]


def test_controls_alone_cannot_be_diagnosed() -> None:
    document = registration()
    document["claims"] = [claims for claims in document["claims"] if claims["tier"] == "control"]
    document["replication"] = []
    with pytest.raises(Invalid, match="controls only"):
        diagnose(parse(document))


# ------------------------------------------------------------------ freezing


def rates(low: float, high: float) -> dict[str, float]:
    return {"estimate": (low + high) / 2, "low": low, "high": high, "of": 100}


def seal(world: World, *, fwer: float = 0.06, power: float = 0.9, **settings: Any) -> Path:
    """Write and seal a diagnosis with given bounds, as if it had been computed."""
    path = world.folder / "diagnosis.json"
    figures_ = {
        "family_wise_error": {"selectivity": rates(0.01, fwer), "minimum_effect": rates(0.0, 0.01)},
        "power": {"each": rates(power, 0.99)},
    }
    document = {
        "schema": "prereg-moe/diagnosis/1",
        "registration": canonical.digest(expand(load(world.folder / "registration.yaml"))),
        "settings": {"studies": 20, "resamples": 199, **settings},
        "scenarios": {"normal": figures_},
    }
    canonical.write(path, document)
    world.registry.seal("diagnosis", ID, [path], time=TIME)
    return path


@pytest.fixture
def demanding(tmp_path: Path) -> Callable[..., World]:
    """Return a recorded world that demands an error of at most 7.5% and a power of at least 80%."""

    def make(**section: Any) -> World:
        world = World(tmp_path)
        demand = {"fwer_at_most": 0.075, "power_at_least": 0.8}
        world.author(lambda document: document.update(diagnosis=SECTION | {"demand": demand} | section))
        world.record()
        return world

    return make


def test_a_met_demand_is_pinned_and_audited(demanding: Callable[..., World]) -> None:
    world = demanding()
    assert "diagnosis" in {problem.where for problem in check(world.folder, world.root).pending}
    path = seal(world)
    frozen = world.freeze()
    assert frozen.document["pins"]["diagnosis"] == canonical.digest_file(path)
    assert world.audit().exit_code == 0
    path.write_bytes(path.read_bytes().replace(b"0.9", b"0.8"))
    failed = {finding.name for finding in world.audit().findings if finding.outcome == "fails"}
    assert {"sealed files", "registration"} <= failed


@pytest.mark.parametrize(("found", "where"), [({"fwer": 0.08}, "boundary of selectivity"), ({"power": 0.7}, "power")])
def test_an_unmet_demand_refuses_or_warns(demanding: Callable[..., World], found: dict[str, float], where: str) -> None:
    world = demanding()
    seal(world, **found)
    with pytest.raises(Invalid, match=where):
        world.freeze()
    document = yaml.safe_load((world.folder / "registration.yaml").read_text())
    document["diagnosis"]["on_failure"] = "warn"
    (world.folder / "registration.yaml").write_text(yaml.safe_dump(document))
    seal(world, **found)
    world.freeze()
    assert len(unmet_demands(world.registry, world.frozen.registration)) == 1


def test_a_diagnosis_that_falls_short_is_refused(demanding: Callable[..., World]) -> None:
    world = demanding(studies=40, scenarios=["normal", "skewed"], resamples=999, on_failure="warn")
    with pytest.raises(Invalid, match="not made yet"):
        world.freeze()
    seal(world)
    with pytest.raises(Invalid) as refused:
        world.freeze()
    assert len(refused.value.problems) == 3


def test_a_diagnosis_of_another_document_is_refused(authored: World) -> None:
    authored.record()
    seal(authored)
    source = authored.folder / "registration.yaml"
    source.write_text(source.read_text().replace("kappa: 3", "kappa: 2"))
    with pytest.raises(Invalid, match=r"another registration\.yaml"):
        authored.freeze()


def test_an_edited_or_missing_diagnosis_is_refused(authored: World) -> None:
    authored.record()
    path = seal(authored)
    kept = path.read_bytes()
    path.write_bytes(kept.replace(b"0.9", b"0.8"))
    with pytest.raises(Tampered):
        authored.freeze()
    path.unlink()
    with pytest.raises(Invalid, match="sealed and missing"):
        authored.freeze()


def test_a_sealed_file_that_is_no_diagnosis_is_refused(authored: World) -> None:
    authored.record()
    path = authored.folder / "diagnosis.json"
    canonical.write(path, ["studies"])
    authored.registry.seal("diagnosis", ID, [path], time=TIME)
    with pytest.raises(Invalid, match="is no diagnosis"):
        authored.freeze()


def test_without_a_diagnosis_none_is_pinned(frozen: World) -> None:
    assert frozen.frozen.document["pins"]["diagnosis"] is None
    (frozen.folder / "diagnosis.json").write_text("{}")
    assert frozen.audit().exit_code == Tampered.exit_code
    with pytest.raises(Deviated):
        diagnose_registered(frozen.registry, ID, workers=1, time=TIME)


# ------------------------------------------------------------------ on disk


def test_a_pilot_gives_spreads(computed: World) -> None:
    scales = pilot_scales(computed.registry, ID, (*AXES, "new"))
    assert scales.on["no"].sd == pytest.approx(0.05, rel=0.5)
    assert scales.draws_sd is not None
    assert scales.on["new"].sd == pytest.approx(np.sqrt(np.mean([scales.on[axis].sd ** 2 for axis in AXES])))
    assert scales.to_json()["registration"] == computed.frozen.digest


def test_a_pilot_without_evidence_is_not_checkable(frozen: World) -> None:
    with pytest.raises(NotCheckable):
        pilot_scales(frozen.registry, ID, AXES)


def test_the_command_writes_seals_and_warns(computed: World, run_cli: Callable[..., Any]) -> None:
    section = SECTION | {"scenarios": ["pilot"], "demand": {"power_at_least": 0.999}, "on_failure": "warn"}
    following = computed.registry.registration("next")
    document = registration() | {"id": "next", "diagnosis": section}
    following.mkdir()
    for name in ("models", "corpora", "tasks"):
        (following / name).symlink_to(computed.folder / name)
    (following / "registration.yaml").write_text(yaml.safe_dump(document))
    command = ("diagnose", "next", "--root", computed.root, "--workers", 1)

    assert run_cli(*command, "--json").code == Invalid.exit_code  # the pilot scenario needs a pilot
    said = run_cli(*command, "--pilot", ID, "--json")
    assert said.code == 0
    path = following / "diagnosis.json"
    assert said.json["settings"]["pilot"]["registration"] == computed.frozen.digest
    assert said.json["scenarios"] == canonical.read(path)["scenarios"]
    assert len(said.json["unmet"]) == 1
    seals = ledger.parse(computed.registry.ledger())
    assert ledger.stage(seals, "next") == "diagnosis"
    assert ledger.head(seals) == said.json["head"]

    shown = run_cli(*command, "--pilot", ID)
    assert "not shown" in shown.out
    assert "199 resamples" in shown.out
    figures_ = said.json["scenarios"]["pilot"]
    rows = {"main": figures_["blocks"]["main"], "again (exploratory)": figures_["blocks"]["again"],
            "both (replication)": figures_["replications"]["both"]}  # fmt: skip
    for label, alone in rows.items():
        [row] = [line.strip() for line in shown.out.splitlines() if line.strip().startswith(f"{label} ")]
        errors, power = alone["family_wise_error"], alone["power"]["each"]
        assert row.removeprefix(label).split() == [
            "pilot",
            *(f"{100 * errors[at]['estimate']:.1f}<{100 * errors[at]['high']:.1f}" for at in errors),
            f"{100 * power['estimate']:.0f}>{100 * power['low']:.0f}",
        ]
    assert canonical.read(path)["scenarios"] == said.json["scenarios"]

    atlas = canonical.read(computed.folder / "atlas.json")
    canonical.write(following / "atlas.json", atlas)
    computed.registry.seal("atlas", "next", [following / "atlas.json"], time=TIME)
    frozen = run_cli("freeze", "next", "--root", computed.root)
    assert frozen.code == 0, frozen.err
    assert "warning" in frozen.out
    assert load_frozen(computed.registry, "next").document["pins"]["diagnosis"] == canonical.digest_file(path)
    with pytest.raises(Deviated):
        freeze(computed.registry, "next", time=TIME)
