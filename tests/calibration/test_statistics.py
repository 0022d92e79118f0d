"""Error rates, power and coverage of the statistics, measured; writes docs/calibration.md.

Seeds and sizes were fixed before the first run: study i of a cell is drawn by ``default_rng([cell, i])`` and
judged with seed i. Every cell asserts a bound and adds its row; the last test writes the page.
`CALIBRATION_STUDIES` sets another number of studies for a quick look; the page says how many there were.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scenarios import E1_NULL, POWER, SCENARIOS, Scenario, simulate
from scipy.stats import binomtest

from prereg_moe import stats

pytestmark = pytest.mark.slow

STUDIES = int(os.environ.get("CALIBRATION_STUDIES", "2000"))
MANY = 2000  # for what is quick
RESAMPLES = 999
PAGE = Path(__file__).resolve().parents[2] / "docs" / "calibration.md"
WHOLE_RULE = "<!-- the whole rule -->"  # what follows is written by test_whole_rule.py
_rows: dict[str, list[str]] = {}


def generator(cell: str, study: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(cell.encode()), study])


def percent(hits: int, studies: int) -> tuple[float, float]:
    """Return a rate and its one-sided 95% upper bound, in percent."""
    return 100 * hits / studies, 100 * binomtest(int(hits), studies, alternative="less").proportion_ci(0.95).high


def held(hits: int, studies: int) -> bool:
    """Whether a rate is at most 7.5% and its upper bound 8.5%; a quick look finds only what is far beyond."""
    rate, bound = percent(hits, studies)
    if studies >= 2000:
        return rate <= 7.5 and bound <= 8.5
    return 100 * float(binomtest(int(hits), studies, alternative="greater").proportion_ci(0.99).low) <= 7.5


def row(table: str, *cells: object) -> None:
    _rows.setdefault(table, []).append("| " + " | ".join(map(str, cells)) + " |")


def point_and_interval_rules(study) -> tuple[bool, bool]:
    """Return whether any family passes off ≤ on/3 by its means, and by its percentile intervals."""
    point = interval = False
    for on, off in zip(study.on, study.off, strict=True):
        own, *others = stats.bootstrap_many(
            np.stack([on, *off.values()], axis=1), interval="percentile", resamples=RESAMPLES, seed=1
        )
        point |= max(other.estimate for other in others) <= own.estimate / 3
        interval |= max(other.high for other in others) <= own.low / 3
    return point, interval


SELECTIVITY = [replace(s, n=n, families=f) for f in (6, 1) for s in SCENARIOS for n in (30, 80, 150)]


@pytest.mark.parametrize("scenario", SELECTIVITY, ids=lambda s: f"{s.name}-{s.n}-{s.families}")
def test_selectivity_at_the_boundary(scenario: Scenario):
    cell = f"E2 {scenario.name} {scenario.n} {scenario.families}"
    names = ("ours", "ours, with skew guard", "Welch-t Holm", "boot-t Holm", "point", "interval", "refuted")
    hits = dict.fromkeys(names, 0)
    for i in range(STUDIES):
        study = simulate(scenario, generator(cell, i))
        got = stats.selective(
            study.on, study.off, on_axes=study.axes, seed=i, resamples=RESAMPLES, clusters=study.clusters
        )
        welch = got.p_welch_holm <= 0.05
        skewed = np.array(["SKEW" in family.flags for family in got.families])
        passed = got.p <= 0.05
        hits["ours"] += passed.any()
        hits["ours, with skew guard"] += (passed & (welch | ~skewed)).any()
        hits["Welch-t Holm"] += welch.any()
        hits["boot-t Holm"] += (stats.adjust([f.p_marginal for f in got.families], "holm") <= 0.05).any()
        hits["refuted"] += (got.p_refute <= 0.05 / scenario.families).any()
        if i < STUDIES // 4:
            point, interval = point_and_interval_rules(study)
            hits["point"] += point
            hits["interval"] += interval
    rate, bound = percent(hits["ours, with skew guard"], STUDIES)
    refuted, at_most = percent(hits["refuted"], STUDIES)
    others = [f"{percent(hits[n], STUDIES)[0]:.1f}" for n in ("Welch-t Holm", "boot-t Holm")]
    paper = [f"{percent(hits[n], STUDIES // 4)[0]:.0f}" for n in ("point", "interval")]
    row(
        "E2 boundary",
        scenario.families,
        scenario.name,
        scenario.n,
        f"**{rate:.1f}** ({bound:.1f})",
        *others,
        *paper,
        f"{refuted:.1f} ({at_most:.1f})",
    )
    assert held(hits["ours, with skew guard"], STUDIES)
    assert held(hits["refuted"], STUDIES)


@pytest.mark.parametrize(
    "scenario",
    [replace(s, n=n, families=f, off=POWER) for f in (6, 1) for s in SCENARIOS for n in (30, 80)],
    ids=lambda s: f"{s.name}-{s.n}-{s.families}",
)
def test_selectivity_power(scenario: Scenario):
    cell, studies = f"E2 power {scenario.name} {scenario.n} {scenario.families}", STUDIES // 4
    confirmed = refuted = 0
    for i in range(studies):
        study = simulate(scenario, generator(cell, i))
        got = stats.selective(
            study.on, study.off, on_axes=study.axes, seed=i, resamples=RESAMPLES, clusters=study.clusters
        )
        confirmed += int((got.p <= 0.05).sum())
        refuted += int((got.p_refute <= 0.05 / scenario.families).sum())
    total = studies * scenario.families
    row(
        "E2 power",
        scenario.families,
        scenario.name,
        scenario.n,
        f"{100 * confirmed / total:.0f}",
        f"{100 * refuted / total:.1f}",
    )
    if scenario.name == "equal skew":
        assert confirmed / total > (0.6 if scenario.n == 30 else 0.97)


RANDOM_NULL = [
    Scenario("equal skew", 0.6, 0.6, n=80, families=6, draws=draws, off=(), on=on)
    for draws in (10, 19, 39, 119)
    for on in (E1_NULL, 0.26)
]


@pytest.mark.parametrize("scenario", RANDOM_NULL, ids=lambda s: f"{s.draws}-{s.on}")
def test_random_null(scenario: Scenario):
    """Families that are one more random draw; or whose effect is 4 standard deviations above the mean draw."""
    cell = f"E1 {scenario.draws} {scenario.on}"
    hits = dict.fromkeys(("E1", "max-T", "Holm", "2σ"), 0)
    for i in range(STUDIES):
        study = simulate(scenario, generator(cell, i))
        got = stats.beats_null(study.on, study.null, labels=study.axes, min_effect=0.0, seed=i, assignments=999)
        passed = {
            "E1": got.p <= 0.05,
            "max-T": np.maximum(got.p_maxt, got.p_randomisation) <= 0.05,
            "Holm": stats.adjust(got.p_randomisation, "holm") <= 0.05,
            "2σ": got.effect > got.null_mean + 2 * got.null_sd,
        }
        for name, outcome in passed.items():
            hits[name] += outcome.any() if scenario.on == E1_NULL else outcome.mean()
    rates = {name: 100 * count / STUDIES for name, count in hits.items()}
    kind = "any of six, no effect" if scenario.on == E1_NULL else "power, each"
    row("E1", kind, scenario.draws, *(f"{rates[name]:.1f}" for name in ("E1", "max-T", "Holm", "2σ")))
    if scenario.on == E1_NULL:
        assert held(hits["E1"], STUDIES)
        assert held(hits["max-T"], STUDIES)
    elif scenario.draws >= 39:
        assert rates["E1"] > 40


POPULATIONS = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "-lognormal(1)": lambda rng, shape: np.exp(0.5) - rng.lognormal(0, 1, shape),
}


@pytest.mark.parametrize("n", [30, 150])
@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize("kind", ["percentile", "basic", "bca", "bootstrap_t", "hall_t"])
def test_coverage(kind, population, n):
    cell = f"coverage {population} {n}"
    covered = below = 0
    for i in range(MANY // 20):  # twenty studies share their resamples
        values = POPULATIONS[population](generator(cell, i), (n, 20))
        for got in stats.bootstrap_many(values, interval=kind, seed=i, resamples=RESAMPLES):
            covered += got.low <= 0 <= got.high
        for got in stats.bootstrap_many(values, interval=kind, seed=i, resamples=RESAMPLES, sides="lower"):
            below += got.low > 0
    studies = MANY // 20 * 20
    row("coverage", population, n, kind, f"{100 * covered / studies:.1f}", f"{100 * below / studies:.1f}")
    if kind in {"bootstrap_t", "hall_t"}:
        assert covered / studies > (0.935 if population == "normal" else 0.90)


def test_paired_binary():
    rng = generator("paired binary", 0)
    covered = rejected = 0
    for _ in range(MANY):
        outcome = rng.choice(3, size=150, p=[0.9, 0.05, 0.05])  # unchanged, lost, gained
        lost, gained = int((outcome == 1).sum()), int((outcome == 2).sum())
        got = stats.mcnemar([[100, lost], [gained, 50 - lost - gained]])
        covered += got.low <= 0 <= got.high
        rejected += got.p <= 0.05
    row(
        "other",
        "McNemar, 5% change each way, n = 150",
        f"coverage {100 * covered / MANY:.1f}",
        f"rejects {100 * rejected / MANY:.1f}",
    )
    assert covered / MANY > 0.94
    assert rejected / MANY <= 0.05 + 0.01


@pytest.mark.parametrize("interval", ["t", "bootstrap_t"])
@pytest.mark.parametrize("population", POPULATIONS)
def test_equivalence_at_its_margin(interval, population):
    held = 0
    for i in range(MANY):
        values = POPULATIONS[population](generator(f"tost {population}", i), 80)
        held += stats.tost(values, low=-9.0, high=0.0, interval=interval, seed=i, resamples=RESAMPLES).holds
        held += stats.tost(values, low=0.0, high=9.0, interval=interval, seed=i, resamples=RESAMPLES).holds
    rate = 100 * held / (2 * MANY)
    row("other", f"TOST ({interval}) with the mean on a margin, {population}, n = 80", "", f"holds {rate:.1f}")
    assert rate <= 8


HEADINGS = {
    "E2 boundary": (
        "## Selectivity at the boundary",
        "Percent of studies in which any family is wrongly confirmed (95% upper bound), one off-axis of each exactly "
        "at a third of the effect. Beside it: other rules on the same studies, and studies with any family wrongly "
        "refuted (95% upper bound). The point and interval rules are those of the anchor paper, without its null band "
        "(a quarter of the studies). Clustered: n counts items in clusters of five; the point and interval rules take "
        "items for units.",
        ("families", "scenario", "n", "ours", "Welch-t Holm", "boot-t Holm", "point rule", "interval rule", "refuted"),
    ),
    "E2 power": (
        "## Selectivity, power",
        "Percent of families confirmed, and wrongly refuted, with every off-axis at a sixth of the effect "
        "(a quarter of the studies).",
        ("families", "scenario", "n", "confirmed", "refuted"),
    ),
    "E1": (
        "## Random null",
        "Six families, n = 80. Without effect a family is one more random draw (percent of studies with any of six "
        "confirmed); with one it lies four standard deviations above the mean draw (percent of families).",
        ("quantity", "draws", "all three parts", "max-T with randomisation", "Holm randomisation", "mean + 2 sd"),
    ),
    "coverage": (
        "## Intervals of a mean",
        "Coverage of the two-sided 95% interval, and one-sided rejections at 5%, where the mean is 0 (percent).",
        ("population", "n", "interval", "coverage", "rejections"),
    ),
    "other": ("## Others", "Percent, at a nominal 95% and 5%.", ("procedure", "coverage", "error")),
}


def test_the_page_is_written():
    lines = [
        "# Calibration",
        "",
        "Written by `make calibrate` (tests/calibration/test_statistics.py); do not edit.",
        f"{STUDIES} simulated studies a cell, {MANY} for intervals and below, {RESAMPLES} resamples, κ = 3, α = 5%. "
        "Scenarios and their parameters: tests/calibration/scenarios.py.",
    ]
    for table, (heading, text, columns) in HEADINGS.items():
        assert table in _rows, "run the whole file: the page needs every table"
        lines += [
            "",
            heading,
            "",
            text,
            "",
            "| " + " | ".join(columns) + " |",
            "|" + "---|" * len(columns),
            *_rows[table],
        ]
    _, mark, rest = (PAGE.read_text("utf-8") if PAGE.exists() else "").partition(WHOLE_RULE)
    PAGE.write_text("\n".join(lines) + "\n" + (f"\n{mark}{rest}" if mark else ""), "utf-8")
