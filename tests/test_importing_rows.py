"""Rows made elsewhere: a 40-cell audit of routing metrics whose answers are known, and what is refused."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats as scipy_stats
from statsmodels.stats.power import TTestPower

from prereg_moe import canonical, importing, stages
from prereg_moe.auditing import audit
from prereg_moe.errors import Deviated, Invalid, NotCheckable
from prereg_moe.importing import schema
from prereg_moe.importing.rows import read_rows
from prereg_moe.registry import Registry

TIME = "2026-01-01T00:00:00Z"
ID = "routing-audit"
MODELS, LAYERS = ("deepseek", "olmoe"), ("0", "4", "8", "12", "15")
METRICS = ("activation_norm", "activation_std", "utilization_rate", "weight_when_active")
ITEMS, DOCUMENTS, ALPHA = 200, 80, 0.05
STRONG, T_ONLY, RANK_ONLY = "0/activation_norm/olmoe", "4/activation_norm/olmoe", "8/activation_norm/olmoe"


def document() -> dict[str, Any]:
    """Return the registration of the audit: one block a model, and absence beside it."""
    return {
        "schema": "prereg-moe/import/1",
        "id": ID,
        "title": "Do routing statistics order experts by what they do?",
        "question": "Does any metric order active experts by token-level ablation loss?",
        "authors": ["The tests"],
        "foreknowledge": "The rows were made by the test.",
        "provenance": {"source": "a seeded generator", "made_by": "numpy", "intervention": "none: numbers were drawn"},
        "evidence": {
            "kind": "rows",
            "cells": {"model": list(MODELS), "layer": list(LAYERS), "metric": list(METRICS)},
            "item": "token",
            "cluster": "document",
            "baseline": "loss_low",
            "ablated": "loss_high",
            "harm": "increase",
            "items": ITEMS,
        },
        "rules": {
            "both": {"kind": "dual_test", "tests": ["t", "wilcoxon"], "sides": "two"},
            "t_alone": {"kind": "superiority", "test": "t"},
            "by_document": {"kind": "superiority", "test": "clustered_t"},
            "inside_03": {"kind": "equivalence", "margin": 0.3, "scale": "sd", "unit": "item"},
            "absent": {"kind": "absence", "margin": 0.2, "scale": "sd", "unit": "item", "power": 0.8},
        },
        "claims": [
            {"id": "olmoe", "hypothesis": "The metric orders experts.", "where": {"model": ["olmoe"]}, "rule": "both"},
            {"id": "deepseek", "hypothesis": "The same.", "where": {"model": ["deepseek"]}, "rule": "both"},
            {"id": "t", "hypothesis": "By t alone.", "tier": "exploratory", "rule": "t_alone"},
            {"id": "documents", "hypothesis": "By documents.", "tier": "exploratory", "rule": "by_document"},
            {"id": "small", "hypothesis": "The effect is small.", "tier": "exploratory", "rule": "inside_03"},
            {"id": "none", "hypothesis": "There is no effect.", "tier": "exploratory", "rule": "absent"},
        ],
        "inference": {
            "alpha": ALPHA,
            "method": "bonferroni",
            "between": "none",
            "seed": "7",
            "resamples": 999,
            "ddof": 0,
        },
    }


def draw(cell: str, number: int) -> np.ndarray:
    """Return the differences of a cell: nothing, but three cells whose answer is known by construction."""
    rng = np.random.default_rng([2606, number])
    noise = rng.standard_normal(ITEMS)
    noise = (noise - noise.mean()) / noise.std()  # exactly standard: d_z is what is added
    if cell == STRONG:
        return noise + 0.5
    if cell == T_ONLY:  # the mean is carried by a few large differences: t alone sees it
        tail = np.where(np.arange(ITEMS) % 8 == 0, 3.0, -0.12)
        return tail + 0.2 * noise
    if cell == RANK_ONLY:  # most differences are positive, a few very negative: ranks alone see it
        return np.where(np.arange(ITEMS) % 20 == 0, -8.0, 0.55) + 0.3 * noise
    return noise


def names() -> list[str]:
    return [f"{layer}/{metric}/{model}" for layer in LAYERS for metric in METRICS for model in MODELS]


def deltas() -> dict[str, np.ndarray]:
    return {cell: draw(cell, number) for number, cell in enumerate(names())}


def rows() -> list[dict[str, Any]]:
    """Return the file's rows: 200 tokens of 80 documents in each of 40 cells, in no useful order."""
    made = []
    for cell, values in deltas().items():
        layer, metric, model = cell.split("/")
        for token, value in enumerate(values.tolist()):
            key = {"model": model, "layer": layer, "metric": metric}
            made.append(
                {
                    **key,
                    "token": f"t{token:03d}",
                    "document": f"d{token % DOCUMENTS:02d}",
                    "loss_low": 2.0,
                    "loss_high": 2.0 + value,
                }
            )
    np.random.default_rng(1).shuffle(made)  # type: ignore[arg-type]
    return made


def write_csv(path: Path, table: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    return path


def freeze(root: Path, edit: dict[str, Any] | None = None) -> Registry:
    registry = Registry(root)
    path = registry.registration(ID) / "registration.yaml"
    canonical.write(path, yaml.safe_dump({**document(), **(edit or {})}, sort_keys=False).encode())
    importing.freeze(registry, ID, time=TIME)
    return registry


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Registry, dict[str, Any]]:
    root = tmp_path_factory.mktemp("rows")
    registry = freeze(root / "registry")
    importing.take_in(registry, ID, "rows", write_csv(root / "rows.csv", rows()), time=TIME)
    made, _ = importing.verdict(registry, ID, time=TIME)
    stages.render(registry, ID, None, time=TIME)
    return registry, made


def by_claim(made: dict[str, Any], block: str) -> dict[str, dict[str, Any]]:
    return {entry["about"]: entry for entry in made["verdicts"] if entry["block"] == block}


# ------------------------------------------------------------------ known answers


def test_forty_cells_of_two_hundred_items_are_read(judged: tuple[Registry, dict[str, Any]]) -> None:
    _, made = judged
    assert set(made["cells"]) == set(names())
    assert len(made["cells"]) == 40
    assert {(c["items"], c["clustered"]["clusters"]) for c in made["cells"].values()} == {(ITEMS, DOCUMENTS)}


def test_every_cell_has_what_scipy_computes_of_its_rows(judged: tuple[Registry, dict[str, Any]]) -> None:
    _, made = judged
    for cell, values in deltas().items():
        found = made["cells"][cell]
        lost = (2.0 + values) - 2.0  # what the file's own digits leave
        assert found["mean"] == pytest.approx(lost.mean(), abs=1e-12)
        assert found["tests"]["t"] == pytest.approx(scipy_stats.ttest_1samp(lost, 0).pvalue, rel=1e-6, abs=1e-12)
        assert found["tests"]["wilcoxon"] == pytest.approx(scipy_stats.wilcoxon(lost).pvalue, rel=1e-9)
        assert found["d_z"]["estimate"] == pytest.approx(lost.mean() / lost.std(ddof=0), abs=1e-9)


def test_clusters_are_documents(judged: tuple[Registry, dict[str, Any]]) -> None:
    _, made = judged
    values, found = deltas()[STRONG], made["cells"][STRONG]["clustered"]
    sums = np.array([(values - values.mean())[np.arange(ITEMS) % DOCUMENTS == d].sum() for d in range(DOCUMENTS)])
    se = math.sqrt(DOCUMENTS / (DOCUMENTS - 1) * (sums**2).sum()) / ITEMS
    half = scipy_stats.t.ppf(0.975, DOCUMENTS - 1) * se
    assert (found["low"], found["high"]) == pytest.approx((values.mean() - half, values.mean() + half))


def test_both_tests_must_agree(judged: tuple[Registry, dict[str, Any]]) -> None:
    """The t test alone flags one cell more and Wilcoxon alone another; the dual rule flags the strong cell only."""
    _, made = judged
    found, each = by_claim(made, "olmoe"), ALPHA / 20
    below = {test: {c for c, e in found.items() if e["parts"]["p"][test] <= each} for test in ("t", "wilcoxon")}
    assert below == {"t": {STRONG, T_ONLY}, "wilcoxon": {STRONG, RANK_ONLY}}
    assert {cell for cell, entry in found.items() if entry["verdict"] == "CONFIRMED"} == {STRONG}
    assert [found[cell]["reasons"] for cell in (STRONG, T_ONLY, RANK_ONLY)] == [
        ["TESTS_AGREE"],
        ["TESTS_DISAGREE"],
        ["TESTS_DISAGREE"],
    ]
    assert {entry["verdict"] for entry in by_claim(made, "deepseek").values()} == {"INCONCLUSIVE"}


def test_bonferroni_is_over_the_cells_of_a_block(judged: tuple[Registry, dict[str, Any]]) -> None:
    _, made = judged
    for entry in by_claim(made, "olmoe").values():
        assert entry["p_adjusted"] == pytest.approx(min(1.0, 20 * entry["p"]))
        assert entry["parts"]["alpha_each"] == pytest.approx(0.0025)
        assert entry["p"] == max(entry["parts"]["p"].values())


def test_the_detectable_effect_is_statsmodels(judged: tuple[Registry, dict[str, Any]]) -> None:
    _, made = judged
    found = by_claim(made, "olmoe")[STRONG]["parts"]["detectable"]
    assert found == pytest.approx(TTestPower().solve_power(nobs=ITEMS, alpha=0.0025, power=0.8), abs=1e-5)
    assert round(found, 3) == 0.276


def test_what_is_nothing_lies_inside_three_tenths_and_what_is_strong_outside(
    judged: tuple[Registry, dict[str, Any]],
) -> None:
    _, made = judged
    small = by_claim(made, "small")
    plain = [cell for cell in names() if cell not in (STRONG, T_ONLY, RANK_ONLY)]
    assert {small[cell]["verdict"] for cell in plain} == {"CONFIRMED"}  # d_z is exactly 0
    assert small[STRONG]["verdict"] != "CONFIRMED"
    one = small[plain[0]]
    t = math.sqrt(ITEMS) * 0.3  # the margin in standard errors: the mean is 0
    assert one["p"] == pytest.approx(scipy_stats.t.sf(t, ITEMS - 1), rel=1e-3)


def test_absence_needs_a_study_that_could_have_told(judged: tuple[Registry, dict[str, Any]]) -> None:
    """With 200 items, 40 cells and a margin of .2 the power at no effect is far below .8: nothing is absent."""
    _, made = judged
    found = by_claim(made, "none")
    assert {entry["verdict"] for entry in found.values()} == {"INCONCLUSIVE"}
    assert {entry["reasons"][0] for entry in found.values()} == {"LOW_POWER"}
    assert all("NO_POSITIVE_CONTROL" in entry["flags"] for entry in found.values())


def test_the_report_says_what_rows_can_support_and_the_audit_derives_it_again(
    judged: tuple[Registry, dict[str, Any]],
) -> None:
    registry, made = judged
    text = (registry.reports(ID) / "report.md").read_text("utf-8")
    assert importing.CAPS["rows"] in text
    assert all(name in text for name in names())
    assert all("IMPORTED" in entry["flags"] for entry in made["verdicts"])
    result = audit(registry, ID)
    assert result.exit_code == 0
    assert [f.outcome for f in result.findings if f.name in ("evidence", "verdict", "report")] == ["holds"] * 3


# ------------------------------------------------------------------ the same from every format, in any order


def parsed(edit: dict[str, Any] | None = None) -> schema.Imported:
    return schema.parse({**document(), **(edit or {})})


def as_bytes(table: list[dict[str, Any]], ending: str, folder: Path) -> bytes:
    if ending == "csv":
        return write_csv(folder / "rows.csv", table).read_bytes()
    if ending == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
        import pyarrow as pa

        parquet.write_table(pa.Table.from_pylist(table), folder / "rows.parquet")
        return (folder / "rows.parquet").read_bytes()
    lines = [json.dumps(row) for row in table]
    return ("\n".join(lines) if ending == "jsonl" else f"[{','.join(lines)}]").encode()


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
def test_formats_and_orders_give_the_same_cells(ending: str, tmp_path: Path) -> None:
    table = rows()
    expected = read_rows(parsed(), as_bytes(table, "csv", tmp_path), "rows.csv")
    assert read_rows(parsed(), as_bytes(table[::-1], ending, tmp_path), f"rows.{ending}") == expected


def test_harm_turns_the_sign_and_deltas_are_read_as_they_are(tmp_path: Path) -> None:
    table = [{**row, "delta": row["loss_low"] - row["loss_high"]} for row in rows()]
    evidence = {key: v for key, v in document()["evidence"].items() if key not in ("baseline", "ablated")}
    edit = {"evidence": {**evidence, "delta": "delta", "harm": "decrease"}}
    data = as_bytes(table, "csv", tmp_path)
    assert read_rows(parsed(edit), data, "rows.csv") == read_rows(parsed(), data, "rows.csv")


# ------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("edit", "error", "said"),
    [
        (lambda table: table[1:], NotCheckable, "has 199 items"),
        (lambda table: [*table, {**table[0], "token": "t999"}], NotCheckable, "has 201 items"),
        (lambda table: [*table, {**table[0], "model": "qwen"}], Deviated, "qwen"),
        (lambda table: [*table[1:], table[1]], Invalid, "2 times"),
        (lambda table: [{**table[0], "loss_high": "nan"}, *table[1:]], Invalid, "finite number"),
        (lambda table: [{**table[0], "document": ""}, *table[1:]], Invalid, "has no document"),
        (lambda table: [{k: v for k, v in row.items() if k != "token"} for row in table], Invalid, "no column 'token'"),
        (lambda table: [row for row in table if row["layer"] != "4"], NotCheckable, "has 0 items"),
    ],
    ids=["missing", "added", "strange cell", "repeated", "nan", "no cluster", "no column", "no cell"],
)
def test_rows_that_are_not_the_registered_ones_are_refused(
    edit: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], error: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        read_rows(parsed(), as_bytes(edit(rows()), "csv", tmp_path), "rows.csv")


def controlled(**control: int) -> dict[str, Any]:
    """Return the parts that make the cells of one model a control."""
    block = {"id": "seen", "hypothesis": "h", "tier": "control", "where": {"model": ["deepseek"]}, "rule": "both"}
    claims = [*document()["claims"][:1], block]
    return {"claims": claims, "controls": {"positive": {"claims": "seen", **control}}}


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"evidence": {**document()["evidence"], "delta": "delta"}}, "needs either delta"),
        ({"evidence": {**document()["evidence"], "cluster": None}}, "needs clusters"),
        ({"inference": None}, "verdicts on items need"),
        ({"claims": [{**document()["claims"][0], "where": {"size": ["1"]}}]}, "is no column that names cells"),
        ({"claims": [{**document()["claims"][0], "about": ["a/b/c"]}]}, "names what is not registered"),
        (
            {"evidence": {**document()["evidence"], "cells": {"model": ["olmoe", "deepseek", "olmoe"]}}},
            "cells.model: names 'olmoe' 2 times",
        ),
        (controlled(at_least=0), "at_least: is 0 of 20 claims, which decides nothing"),
        (controlled(at_least=21), "at_least: is 21 of 20"),
        (controlled(at_most=20), "at_most: is 20 of 20"),
        (controlled(), "needs either at_least or at_most"),
        (
            {"rules": {**document()["rules"], "both": {"kind": "expression", "confirm": "on.est > 0"}}},
            "does not fit rows",
        ),
    ],
)
def test_a_registration_of_rows_is_refused_with_its_place(part: dict[str, Any], said: str) -> None:
    made = {**document(), **part}
    with pytest.raises(Invalid, match=said):
        schema.parse({key: value for key, value in made.items() if value is not None})


def test_a_failed_positive_control_makes_every_other_claim_invalid(tmp_path: Path) -> None:
    registry = freeze(tmp_path / "registry", controlled(at_least=1))
    importing.take_in(registry, ID, "rows", write_csv(tmp_path / "rows.csv", rows()), time=TIME)
    made, _ = importing.verdict(registry, ID, time=TIME)
    assert {entry["verdict"] for entry in by_claim(made, "olmoe").values()} == {"INVALID"}
    assert not made["controls"][0]["holds"]


def test_rows_without_variance_confirm_nothing(tmp_path: Path) -> None:
    table = [{**row, "loss_high": 2.5} for row in rows()]
    registry = freeze(tmp_path / "registry")
    importing.take_in(registry, ID, "rows", write_csv(tmp_path / "rows.csv", table), time=TIME)
    made, _ = importing.verdict(registry, ID, time=TIME)
    for entry in made["verdicts"]:
        assert "ZERO_VARIANCE" in entry["flags"]
        assert entry["verdict"] == "INCONCLUSIVE" or entry["parts"]["p"].get("wilcoxon") is not None


def test_the_command_line_takes_rows(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    registry = freeze(tmp_path / "registry")
    path = write_csv(tmp_path / "rows.csv", rows())
    said = run_cli("import", "rows", ID, path, "--root", registry.root)
    assert (said.code, "40 cells, 8000 paired items" in said.out) == (0, True)
    assert run_cli("verdict", ID, "--root", registry.root).code == 0
    assert run_cli("import", "rows", ID, tmp_path / "none.csv", "--root", registry.root).code == 5
