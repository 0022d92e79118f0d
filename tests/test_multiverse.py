"""The multiverse: every specification is judged by the code of the registered verdict, and changes it never."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_report_latex import compiled, complaints, write
from world import AXES, DRAWS, EFFECTS, Edit, Effect, World, gate_rule, multiverse, registration

from prereg_moe import canonical, stats
from prereg_moe.auditing import audit
from prereg_moe.errors import Invalid
from prereg_moe.evidence import file_name, gather
from prereg_moe.freezing import check
from prereg_moe.registration import Specification, parse, registered, specifications, vary
from prereg_moe.registration.grid import DIMENSIONS, LIMIT
from prereg_moe.registry import Registry
from prereg_moe.report import context
from prereg_moe.verdict import judge

FRAGILE = Effect(own=1.0, original=0.1)  # a module only where the other gates grow


def document(**changes: Any) -> dict[str, Any]:
    """Return the world's registration with its multiverse, keys of the entry changed or (None) left out."""
    made = registration()
    multiverse(made)
    entry = made["multiverse"][0] | changes
    made["multiverse"] = [{key: value for key, value in entry.items() if value is not None}]
    return made


def problems(made: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(Invalid) as refused:
        parse(made)
    return {problem.where: f"{problem.found}; {problem.todo}" for problem in refused.value.problems}


# ------------------------------------------------------------------ the grid


def test_a_choice_that_cannot_matter_is_counted_once() -> None:
    study = parse(document())
    grid = specifications(study, study.multiverse[0])
    by_rule = {rule: [one for one in grid if one.rule == rule] for rule in study.rules}
    # two measures x two gates x what matters to the rule
    assert {rule: len(found) for rule, found in by_rule.items()} == {
        "modular": 4 * 4 * 2,
        "selective": 4 * 4,
        "point": 4 * 2,
        "interval": 4 * 2 * 2,
    }
    assert {one.correction for one in by_rule["point"]} == {None}
    assert {one.null for one in by_rule["selective"]} == {None}
    assert len(set(grid)) == len(grid)


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_the_order_of_lists_changes_nothing(data: st.DataObject) -> None:
    made = document()
    entry = made["multiverse"][0]
    shuffled = {k: data.draw(st.permutations(v)) if isinstance(v, list) else v for k, v in entry.items()}
    one, other = parse(made), parse({**made, "multiverse": [shuffled]})
    assert specifications(one, one.multiverse[0]) == specifications(other, other.multiverse[0])


def test_a_list_left_out_is_the_registered_choice() -> None:
    lists = ("measures", "rules", "corrections", "intervals", "null", "gates")
    made = document(**dict.fromkeys(lists))
    del made["controls"]["null"]["tolerance"]
    study = parse(made)
    assert specifications(study, study.multiverse[0]) == (
        Specification("nll", "modular", "max_t", None, "size", "renorm"),
    )


def test_the_registered_specification_is_the_registration_itself() -> None:
    study = parse(document())
    claims = study.claims[0]
    assert vary(study, claims, registered(study, claims)) == (study, claims)


def test_a_registration_without_a_multiverse_says_nothing_of_it() -> None:
    from prereg_moe.registration import expand

    assert "multiverse" not in expand(parse(registration()))


@pytest.mark.parametrize(
    ("changes", "where", "says"),
    [
        ({"claims": "nobody"}, "multiverse[0].claims", "not one of the claims"),
        ({"measures": ["nll", "typo"]}, "multiverse[0].measures", "'typo' is not one of the measures"),
        ({"rules": ["modular", "typo"]}, "multiverse[0].rules", "'typo' is not one of the rules"),
        ({"measures": []}, "multiverse[0].measures", "is empty; register at least 1"),
        ({"corrections": ["max_t", "fdr"]}, "multiverse[0].corrections[1]", "is 'fdr'"),
        ({"gates": ["renorm", "open"]}, "multiverse[0].gates[1]", "is 'open'"),
        ({"measures": ["nll_a"]}, "multiverse[0].measures", "leaves out the registered choice 'nll'"),
        ({"rules": ["selective", "point"]}, "multiverse[0].rules", "leaves out the registered choice 'modular'"),
        ({"corrections": ["bh"]}, "multiverse[0].corrections", "leaves out the registered choice 'max_t'"),
        ({"gates": ["original"]}, "multiverse[0].gates", "leaves out the registered choice 'renorm'"),
        ({"null": ["mass"]}, "multiverse[0].null", "leaves out the registered choice 'size'"),
        ({"gates": ["renorm", "renorm"]}, "multiverse[0].gates", "names a choice twice"),
        ({"rules": ["modular", "point"]}, "multiverse[0].intervals", "matters to no rule of the grid"),
        ({"corrections": ["max_t", "holm"]}, "multiverse[0].corrections", "register 59 draws"),
        ({"null": ["size"]}, "controls.null.tolerance", "remove it"),
        ({"surprise": 1}, "multiverse[0].surprise", "is not a key"),
    ],
)
def test_a_bad_grid_is_refused_by_name(changes: dict[str, Any], where: str, says: str) -> None:
    found = problems(document(**changes))
    assert says in found[where], found


def test_the_draws_a_correction_needs_are_the_fewest_that_reach_alpha() -> None:
    for method, needed in (("bonferroni", 59), ("holm", 59), ("by", 36), ("hochberg", 30), ("bh", 30), ("hommel", 30)):
        made = document(corrections=["max_t", method])
        made["controls"]["null"]["draws"] = needed
        parse(made)
        smallest = stats.adjust([1 / (needed + 1)] * len(AXES), method).min()
        assert smallest <= 0.05 + 1e-12
        if needed > DRAWS:
            made["controls"]["null"]["draws"] = needed - 1
            assert f"register {needed} draws" in problems(made)["multiverse[0].corrections"]
            assert stats.adjust([1 / needed] * len(AXES), method).min() > 0.05


def test_a_block_has_a_draw_for_every_claim() -> None:
    made = registration()
    made["axes"] |= {f"x{number}": {"domain": "more"} for number in range(DRAWS)}
    claims = len(made["axes"])
    assert f"{DRAWS} draws for {claims} claims" in problems(made)["controls.null.draws"]
    made["controls"] = {"null": {**made["controls"]["null"], "draws": claims}}
    made["claims"] = [block for block in made["claims"] if block["tier"] != "control"]
    parse(made)


def test_mass_matched_sets_need_a_tolerance() -> None:
    made = document()
    del made["controls"]["null"]["tolerance"]
    assert "say how close" in problems(made)["controls.null.tolerance"]


def test_random_sets_that_are_not_registered_cannot_be_compared_with() -> None:
    made = document(null=None, corrections=["max_t"])
    made["claims"] = [{**claims, "rule": "selective"} for claims in made["claims"]]
    del made["controls"]["null"]
    assert "compares with random experts" in problems(made)["controls.null"]


def test_two_entries_need_two_ids() -> None:
    made = document()
    made["multiverse"] *= 2
    assert "is used twice" in problems(made)["multiverse[0].id"]
    made["multiverse"] = [made["multiverse"][0], {**made["multiverse"][0], "id": "other"}]
    parse(made)


def test_a_grid_is_at_most_so_large() -> None:
    made = document()
    for index in range(60):
        made["measures"][f"more{index}"] = made["measures"]["nll"]
        made["rules"][f"more{index}"] = made["rules"]["modular"]
    made["multiverse"][0] |= {"measures": list(made["measures"]), "rules": [*made["rules"]]}
    assert f"at most {LIMIT}" in problems(made)["multiverse[0]"]


# ------------------------------------------------------------------ the plan


def test_the_plan_grows_by_what_the_grid_needs_and_check_counts_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.author(multiverse)
    counted = check(world.folder, tmp_path).conditions
    world.record()
    frozen = world.freeze()
    kinds = {"family" in entry for entry in frozen.document["draws"] if entry["model"] == "standard"}
    assert kinds == {True, False}  # of a family's mass, and shared by size
    assert [entry for entry in frozen.document["draws"] if entry["model"] == "planted" and "family" in entry] == []
    gates = {(c.model, gate_rule(c)) for c in frozen.plan.values()}
    assert gates == {(model, g) for model in EFFECTS for g in ("renorm", None)} | {("standard", "original")}
    assert len(frozen.plan) <= counted
    subject = {(c.measure, gate_rule(c)) for c in frozen.plan.values() if c.model == "standard"}
    assert subject == {(m, g) for m in ("nll", "nll_a") for g in ("renorm", "original", None)}


def test_a_missing_condition_of_the_grid_is_not_checkable(explored: World) -> None:
    condition = next(c for c in explored.frozen.plan.values() if gate_rule(c) == "original")
    files = {path.name: path.read_bytes() for path in explored.evidence}
    from prereg_moe.errors import NotCheckable

    del files[file_name(condition.digest)]
    with pytest.raises(NotCheckable, match="1 of"):
        gather(explored.frozen, files)


# ------------------------------------------------------------------ the verdicts


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world with a multiverse and a module that depends on its gates, judged and reported."""
    world = World(tmp_path_factory.mktemp("multiverse"), EFFECTS | {"standard": FRAGILE})
    world.author(multiverse)
    for step in (world.record, world.freeze, world.run, world.judge, world.report):
        step()
    return world


@pytest.fixture
def explored(kept: World, tmp_path: Path) -> World:
    return World(Path(shutil.copytree(kept.root, tmp_path / "registry")), kept.effects)


@pytest.fixture(scope="module")
def verdicts(kept: World) -> Any:
    return canonical.read(kept.registry.reports("world") / "verdict.json")


def judged(root: Path, edit: Edit, effects: dict[str, Effect] | None = None) -> Any:
    world = World(root, EFFECTS | (effects or {}))
    world.author(edit)
    world.record()
    frozen = world.freeze()
    files = {file_name(d): canonical.dumps(world.made(frozen, c)) for d, c in frozen.plan.items()}
    return judge(gather(frozen, files)).document


def test_the_registered_specification_has_the_registered_verdict(verdicts: Any) -> None:
    entries = {entry["claim"]: entry for entry in verdicts["verdicts"]}
    assert [entry["claim"] for entry in verdicts["multiverse"]] == [f"main.{axis}" for axis in sorted(AXES)]
    for explored in verdicts["multiverse"]:
        own = [row for row in explored["specifications"] if row["registered"]]
        assert len(own) == 1
        entry = entries[explored["claim"]]
        assert explored["verdict"] == own[0]["verdict"] == entry["verdict"]
        for name in ("p", "p_adjusted", "margin", "reasons"):
            assert own[0][name] == entry[name]
        assert own[0]["estimate"] == entry["estimates"]["on"]["estimate"]
        assert (own[0]["low"], own[0]["high"]) == tuple(entry["estimates"]["on"][end] for end in ("low", "high"))


def test_the_verdicts_are_those_of_a_study_without_it(tmp_path: Path, verdicts: Any) -> None:
    def alone(made: dict[str, Any]) -> None:
        multiverse(made)
        del made["multiverse"], made["controls"]["null"]["tolerance"]

    without = judged(tmp_path, alone, {"standard": FRAGILE})
    assert "multiverse" not in without

    def said(document: Any) -> list[Any]:
        keys = ("claim", "verdict", "p", "p_adjusted", "margin", "estimates", "reasons", "flags")
        return [{key: entry[key] for key in keys} for entry in document["verdicts"]]

    assert said(without) == said(verdicts)


def test_each_specification_is_what_a_registration_of_it_would_have_found(tmp_path: Path, verdicts: Any) -> None:
    """The other way round: register a specification, and the verdict is the grid's."""

    def other(made: dict[str, Any]) -> None:
        multiverse(made)
        del made["multiverse"]
        made["controls"]["null"]["match"] = "mass"
        made["intervention"]["gates"] = "original"
        made["inference"]["interval"] = {"kind": "percentile"}
        made["claims"][0]["measure"] = "nll_a"

    for rule, choice in (("modular", {"correction": "max_t"}), ("interval", {"interval": "percentile"})):

        def edit(made: dict[str, Any], rule: str = rule) -> None:
            other(made)
            made["claims"][0]["rule"] = rule
            if rule == "interval":
                made["controls"] |= {"positive": None, "negative": None}
                made["claims"] = [block for block in made["claims"] if block["tier"] != "control"]
                made["controls"] = {"null": made["controls"]["null"]}

        found = judged(tmp_path / rule, edit, {"standard": FRAGILE})
        named = {"measure": "nll_a", "rule": rule, "null": "mass", "gates": "original", **choice}
        for entry in found["verdicts"]:
            if entry["block"] != "main":
                continue
            grid = next(one for one in verdicts["multiverse"] if one["claim"] == entry["claim"])["specifications"]
            row = next(one for one in grid if named.items() <= one.items())
            # items, draws and evidence are the same numbers; only the study's name differs
            assert row["verdict"] == entry["verdict"]
            for name in ("p", "p_adjusted", "margin"):
                assert row[name] == entry[name]


def test_what_is_counted_is_what_is_listed(verdicts: Any) -> None:
    for entry in verdicts["multiverse"]:
        rows = entry["specifications"]
        found = [row["verdict"] for row in rows]
        assert (entry["confirmed"], entry["refuted"]) == (found.count("CONFIRMED"), found.count("REFUTED"))
        assert entry["share"] == entry["confirmed"] / len(rows)
        assert entry["median"] == pytest.approx(np.median([row["estimate"] for row in rows if row["comparable"]]))
        assert entry["low"] <= entry["median"] <= entry["high"]
        assert entry["tier"] == "exploratory"
        for level in entry["fragility"]["levels"]:
            here = [row for row in rows if row[level["dimension"]] == level["choice"]]
            assert level["specifications"] == len(here)
            assert level["confirmed"] == sum(row["verdict"] == "CONFIRMED" for row in here)
            assert level["flipped"] == sum(row["verdict"] != entry["verdict"] for row in here)
            own = [row["verdict"] for row in here if row["changes"] == (0 if level["registered"] else 1)]
            assert level["alone"] == (own[0] if own else None)


def test_the_planted_fragility_is_named(verdicts: Any) -> None:
    for entry in verdicts["multiverse"]:
        fragility = entry["fragility"]
        assert entry["verdict"] == "CONFIRMED"
        assert {"dimension": "gates", "choice": "original", "verdict": "INCONCLUSIVE"} in fragility["flips"]
        assert fragility["distance"] == 1
        assert "gates=original (INCONCLUSIVE)" in fragility["statement"]
        for level in fragility["levels"]:
            flips = {"dimension": level["dimension"], "choice": level["choice"], "verdict": level["alone"]}
            assert (flips in fragility["flips"]) == (level["alone"] not in (None, entry["verdict"]))


def test_joint_p_is_the_larger_of_the_kinds_of_random_sets(verdicts: Any) -> None:
    for entry in verdicts["multiverse"]:
        assert [one["null"] for one in entry["joint"]] == ["mass", "size"]
        assert {(one["analyses"], one["draws"]) for one in entry["joint"]} == {(4, DRAWS)}
        assert entry["joint_p"] == max(one["p"] for one in entry["joint"]) >= 1 / (DRAWS + 1)


def test_a_weaker_correction_never_gives_a_larger_p(verdicts: Any) -> None:
    for entry in verdicts["multiverse"]:
        analyses: dict[Any, dict[str, float]] = {}
        for row in entry["specifications"]:
            if row["correction"] is not None:
                key = tuple(row[name] for name in DIMENSIONS if name != "correction")
                analyses.setdefault(key, {})[row["correction"]] = row["p_adjusted"]
        for p in analyses.values():
            assert p["none"] <= p["bh"] <= p["hochberg"]


def test_a_grid_of_one_is_the_verdict_and_flips_nothing(tmp_path: Path) -> None:
    def edit(made: dict[str, Any]) -> None:
        made["multiverse"] = [{"id": "one", "claims": "main"}]

    found = judged(tmp_path, edit)
    for entry in found["multiverse"]:
        assert len(entry["specifications"]) == 1
        assert (entry["share"], entry["fragility"]["distance"], entry["fragility"]["levels"]) == (1.0, None, [])
        assert entry["median"] == entry["specifications"][0]["estimate"]


def test_a_failed_control_gates_every_specification(tmp_path: Path) -> None:
    found = judged(tmp_path, multiverse, {"randomised": EFFECTS["planted"]})
    for entry in found["multiverse"]:
        assert entry["verdict"] == "INVALID"
        assert {row["verdict"] for row in entry["specifications"]} == {"INVALID"}
        assert (entry["confirmed"], entry["fragility"]["flips"]) == (0, [])


def test_estimates_in_another_unit_are_not_summarised_with_the_registered_ones(tmp_path: Path) -> None:
    def edit(made: dict[str, Any]) -> None:
        made["measures"]["passage"] = {**made["measures"]["nll"], "per": "item"}
        made["multiverse"] = [{"id": "units", "claims": "main", "measures": ["nll", "passage"]}]

    for entry in judged(tmp_path, edit)["multiverse"]:
        assert [row["comparable"] for row in entry["specifications"]] == [True, False]
        assert entry["comparable"] == 1
        assert entry["median"] == entry["specifications"][0]["estimate"]
        assert entry["joint"][0]["analyses"] == 2  # ranks have no unit


def test_too_few_units_are_inconclusive_everywhere(tmp_path: Path) -> None:
    def edit(made: dict[str, Any]) -> None:
        multiverse(made)
        for measure in made["measures"].values():
            measure |= {"unit": "cluster", "cluster": "axis"}
        made["controls"] = {"null": made["controls"]["null"]}
        made["claims"] = [block for block in made["claims"] if block["tier"] != "control"]

    world = World(tmp_path)
    world.author(edit)
    for path in (world.folder / "corpora").rglob("*.jsonl"):
        path.write_text(path.read_text("utf-8").replace('"book": "', '"axis": "one", "book": "'), "utf-8")
    world.record()
    frozen = world.freeze()
    files = {file_name(d): canonical.dumps(world.made(frozen, c)) for d, c in frozen.plan.items()}
    for entry in judge(gather(frozen, files)).document["multiverse"]:
        tested = [row for row in entry["specifications"] if row["correction"] is not None]
        assert {row["verdict"] for row in tested} == {"INCONCLUSIVE"}
        assert entry["confirmed"] == sum(row["verdict"] == "CONFIRMED" for row in entry["specifications"]) == 0


# ------------------------------------------------------------------ end to end


def test_the_audit_derives_it_again(explored: World, run_cli: Callable[..., Any]) -> None:
    said = run_cli("audit", explored.root)
    assert said.code == 0, said
    path = explored.registry.reports("world") / "verdict.json"
    made = canonical.read(path)
    row = made["multiverse"][0]["specifications"][0]
    row["verdict"] = "CONFIRMED" if row["verdict"] != "CONFIRMED" else "REFUTED"
    path.write_bytes(canonical.dumps(made))
    said = run_cli("audit", explored.root)
    assert said.code == 3
    assert "multiverse[0].specifications[0].verdict" in said.out


def test_the_command_line_judges_and_says_what_the_verdicts_hang_on(
    explored: World, run_cli: Callable[..., Any]
) -> None:
    said = run_cli("verdict", "world", "--root", explored.root, "--json")
    assert said.code == 0
    assert len(said.json["multiverse"]) == len(AXES)


def test_the_report_says_what_the_verdicts_hang_on(kept: World, verdicts: Any) -> None:
    text = (kept.registry.reports("world") / "report.md").read_text("utf-8")
    section = text.split("\n## What the verdicts hang on\n")[1].split("\n## ")[0]
    assert "72 specifications" in section
    for entry in verdicts["multiverse"]:
        row = next(line for line in section.splitlines() if line.startswith(f"| {entry['family']} |"))
        assert f"| {entry['confirmed']} of 72 ({entry['share']:.2f}) |" in row
        assert "gates original: INCONCLUSIVE" in row
    for level in verdicts["multiverse"][0]["fragility"]["levels"]:
        named = f"| {level['dimension']} {level['choice']}{' (registered)' if level['registered'] else ''} |"
        assert f"{named} {level['confirmed']} of {level['specifications']} |" in section


def test_without_a_multiverse_the_report_is_silent(stages_of_a_world: dict[str, Path]) -> None:
    text = (World(stages_of_a_world["reported"]).registry.reports("world") / "report.md").read_text("utf-8")
    assert "hang on\n" not in text


def test_its_tables_and_curves_compile_in_a_two_column_paper(verdicts: Any, tmp_path: Path) -> None:
    text = write(tmp_path, verdicts, figures=True)
    assert "tab:world-multiverse-grid-choices" in text
    log = compiled(tmp_path, r"\input{report}")
    assert complaints(log) == []
    assert all(f"curve-grid-{entry['family']}.pdf" in log for entry in verdicts["multiverse"])


# ------------------------------------------------------------------ the page

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "multiverse.md"


def quoted(study: str, heading: str) -> str:
    """Return the tables below a heading of a committed report, what they rest on, and the figures of a multiverse."""
    folder = ROOT / "reports" / study
    section = (folder / "report.md").read_text("utf-8").split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|") or not line]
    document = canonical.read(folder / "verdict.json")
    drawn = context(document)["figures"].values()
    curves = [drawing for drawing in drawn if drawing.name.startswith("curve-")]
    said = [f"Registration `{document['registration']}`, {document['conditions']} conditions."]
    for drawing in curves:
        assert (folder / "figures" / f"{drawing.name}.svg").read_text("utf-8") == f"{drawing.svg}\n"
        said.append(
            f"![{drawing.title}](../reports/{study}/figures/{drawing.name}.svg)\n*{drawing.title}.* {drawing.caption}"
        )
    tables = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
    return "\n" + "\n\n".join([tables, *said]) + "\n\n"


@pytest.mark.parametrize(
    ("block", "study", "heading"),
    [("replication", "testbed", "Replication"), ("multiverse", "testbed-multiverse", "What the verdicts hang on")],
)
def test_the_page_shows_what_the_report_says(
    block: str, study: str, heading: str, request: pytest.FixtureRequest
) -> None:
    pattern = re.compile(rf"(<!-- {block}: begin [^\n]*-->\n)(.*?)(<!-- {block}: end -->)", re.DOTALL)
    text = PAGE.read_text("utf-8")
    wanted = pattern.sub(lambda found: found[1] + quoted(study, heading) + found[3], text)
    if request.config.getoption("--update"):
        PAGE.write_text(wanted, "utf-8")
        text = wanted
    assert pattern.search(text) is not None
    assert text == wanted, "run `pytest tests/test_multiverse.py --update`"


def test_the_committed_multiverse_flips_verdicts_and_follows_from_its_evidence() -> None:
    found = audit(Registry(ROOT), "testbed-multiverse")
    assert [(one.name, one.outcome) for one in found.findings if one.outcome not in ("holds", "unchecked")] == []
    assert {"evidence", "verdict", "report"} <= {one.name for one in found.findings if one.outcome == "holds"}
    document = canonical.read(ROOT / "reports/testbed-multiverse/verdict.json")
    assert [(one["family"], one["verdict"]) for one in document["multiverse"]] == [
        ("en", "CONFIRMED"),
        ("math", "CONFIRMED"),
    ]
    for one in document["multiverse"]:  # what the page says of it in words
        flips = {(flip["dimension"], flip["choice"]) for flip in one["fragility"]["flips"]}
        assert ("null", "mass") in flips
        confirmed = {(level["dimension"], level["choice"]): level["confirmed"] for level in one["fragility"]["levels"]}
        assert confirmed["gates", "renorm"] == confirmed["gates", "original"]


def test_the_committed_multiverse_and_the_study_it_starts_from_are_counted_as_two_claim_spaces() -> None:
    """The page says so, and what would follow were they one."""
    for study in ("testbed", "testbed-multiverse"):
        document = canonical.read(ROOT / "reports" / study / "verdict.json")
        assert "claim_space" not in document.get("record", {})
        assert {one["alpha"] for one in document["verdicts"]} == {0.05}
    assert all(0.05 / 2 < one["p_adjusted"] <= 0.05 for one in document["verdicts"] if one["tier"] == "confirmatory")
