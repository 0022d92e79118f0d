"""What a registration of evidence made elsewhere says, as types: ``schema: prereg-moe/import/1``.

It says where the evidence comes from, how it is read, and which claims are decided by which rule.
It has no models, corpora or interventions: nothing is run. Three kinds of evidence:

* ``summary``: published estimates, as printed. Claims get *readings* (TRUE, FALSE, UNDECIDABLE);
* ``rows``: the score of every item in every cell;
* ``lm-eval``: results and samples as ``lm_eval --log_samples`` writes them, a baseline and its
  ablations.

The last two get verdicts, by rules that need paired differences of items.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from prereg_moe import rules
from prereg_moe.errors import Invalid, NotCheckable, Problem
from prereg_moe.registration import control_problems, read_as, repeats
from prereg_moe.registration.document import read_yaml
from prereg_moe.registration.schema import (
    ExpressionRule,
    Interval,
    ModelControls,
    Name,
    Part,
    PlannedEffects,
    ScenarioName,
    Seed,
    SelectiveRule,
    Text,
)

__all__ = [
    "BAND",
    "SCHEMA",
    "VERDICT_SCHEMA",
    "AbsenceRule",
    "Block",
    "CellRule",
    "Design",
    "DualTestRule",
    "EquivalenceRule",
    "Imported",
    "Inference",
    "NoninferiorityRule",
    "Provenance",
    "Released",
    "Rows",
    "Run",
    "Samples",
    "Summary",
    "SuperiorityRule",
    "TaskScore",
    "expression",
    "is_imported",
    "json_schema",
    "load",
    "names",
    "parse",
]

SCHEMA = "prereg-moe/import/1"
VERDICT_SCHEMA = "prereg-moe/import-verdict/1"
BAND = "null.band"  # a quantity of published summaries only: the sum is printed, its parts are not
_BAND_TEXT = "null.mean + 2*null.sd"

Test = Literal["t", "wilcoxon", "sign_flip", "clustered_t"]
Column = Annotated[str, Field(min_length=1, max_length=200)]


class Provenance(Part):
    """Where the evidence comes from, as its makers declare it."""

    source: Text
    made_by: Text
    intervention: Text
    licence: Text | None = None


class Summary(Part):
    """Published estimates: a CSV file with one row a claim, numbers as they were printed.

    ``columns`` says which column holds which quantity; an empty cell was not published.
    """

    kind: Literal["summary"]
    claim: Column
    columns: Annotated[dict[Column, Column], Field(min_length=1)]
    worst_axis: Column | None = None


class Rows(Part):
    """Per-item rows: CSV, JSON (a list of objects, or one object a line) or Parquet.

    A cell is named by the values of the columns in ``cells``, and all combinations of the values
    listed there are expected, no others. A row gives a difference (``delta``), or a ``baseline`` and
    an ``ablated`` score; + is harm where ``harm: increase``.
    """

    kind: Literal["rows"]
    cells: Annotated[dict[Column, Annotated[tuple[Text, ...], Field(min_length=1)]], Field(min_length=1)]
    item: Column
    cluster: Column | None = None
    delta: Column | None = None
    baseline: Column | None = None
    ablated: Column | None = None
    harm: Literal["increase", "decrease"]
    items: Annotated[int, Field(ge=2)] | None = None


class TaskScore(Part):
    """A task's metric on an axis, one value a sample."""

    task: Text
    metric: Name
    filter: Text = "none"
    harm: Literal["increase", "decrease"]


class Run(Part):
    """One run of lm-evaluation-harness: the folder its ``--output_path`` named, and the model it says it loaded."""

    folder: Text
    model: Text
    axis: Name | None = None


class Samples(Part):
    """Results and samples of lm-evaluation-harness: a baseline and ablations of it.

    ``model`` is compared with ``model_name`` of the results; an ablation's ``axis`` is what the rule
    ``selective`` counts as its own.
    """

    kind: Literal["lm-eval"]
    version: Text
    axes: Annotated[dict[Name, TaskScore], Field(min_length=1)]
    baseline: Run
    ablations: Annotated[dict[Name, Run], Field(min_length=1)]


class SuperiorityRule(Part):
    """The mean difference is above ``bound``, by one test."""

    kind: Literal["superiority"]
    test: Test
    bound: float = 0.0


class NoninferiorityRule(Part):
    """The mean harm is below ``margin``: a one-sided t test."""

    kind: Literal["noninferiority"]
    margin: Annotated[float, Field(gt=0)]
    scale: Literal["raw", "sd"]
    unit: Literal["item", "cluster"]


class DualTestRule(Part):
    """The mean differs from 0 and all tests named agree: the claim's p is the largest of theirs."""

    kind: Literal["dual_test"]
    tests: Annotated[tuple[Test, ...], Field(min_length=2)]
    sides: Literal["two", "greater"]


class EquivalenceRule(Part):
    """The mean lies inside ±``margin``: two one-sided t tests.

    ``scale: sd`` gives the margin in standard deviations of the differences (d_z), which are the
    sample's own.
    """

    kind: Literal["equivalence"]
    margin: Annotated[float, Field(gt=0)]
    scale: Literal["raw", "sd"]
    unit: Literal["item", "cluster"]


class AbsenceRule(Part):
    """Equivalence in a study that could have told.

    The power of the two one-sided tests, were the true mean 0, is at least ``power``, and the
    positive control (where one is registered) was confirmed. "p > .05" never shows absence.
    """

    kind: Literal["absence"]
    margin: Annotated[float, Field(gt=0)]
    scale: Literal["raw", "sd"]
    unit: Literal["item", "cluster"]
    power: Annotated[float, Field(gt=0, lt=1)]


CellRule = SuperiorityRule | NoninferiorityRule | DualTestRule | EquivalenceRule | AbsenceRule
Rule = Annotated[CellRule | SelectiveRule | ExpressionRule, Field(discriminator="kind")]


class Block(Part):
    """A block of claims judged by one rule.

    ``about`` names rows of the summary, cells (``axis`` by ``axis`` for lm-eval: ``ablation/axis``),
    or, for the rule ``selective``, ablations; ``where`` selects cells by their columns. ``said`` is
    the column of the summary that holds its authors' own verdict (yes, no).
    """

    id: Name
    hypothesis: Text
    tier: Literal["confirmatory", "exploratory", "control"] = "confirmatory"
    about: Literal["all"] | Annotated[tuple[Text, ...], Field(min_length=1)] = "all"
    where: dict[Column, Annotated[tuple[Text, ...], Field(min_length=1)]] | None = None
    rule: Name
    said: Column | None = None


class Inference(Part):
    """Error rates of verdicts on items; a summary has none.

    Inside a block p-values are corrected by ``method``; ``between`` says whether confirmatory blocks
    share ``alpha``. ``ddof`` is that of d_z. ``power`` is that of the smallest detectable effect.
    """

    alpha: Annotated[float, Field(gt=0, lt=0.5)]
    method: Literal["bonferroni", "holm", "none"]
    between: Literal["bonferroni", "none"] = "bonferroni"
    interval: Interval = Interval()
    resamples: Annotated[int, Field(ge=999, le=999_999)] = 9_999
    seed: Seed
    ddof: Literal[0, 1] = 1
    power: Annotated[float, Field(gt=0, lt=1)] = 0.8
    few_units: Annotated[int, Field(ge=2)] = 30


class Domain(Part):
    """Axes that count as off-target for one another, and those that have a family."""

    axes: Annotated[tuple[Name, ...], Field(min_length=2)]
    families: Annotated[tuple[Name, ...], Field(min_length=1)]
    items: Annotated[int, Field(ge=2)]


class Design(Part):
    """The published design as far as it is known; `prereg-moe diagnose` simulates its rules by it."""

    domains: Annotated[dict[Name, Domain], Field(min_length=1)]
    draws: Annotated[int, Field(ge=2)]
    kappa: Annotated[float, Field(gt=0)]
    effects: PlannedEffects
    interval: Interval
    resamples: Annotated[int, Field(ge=999, le=99_999)]
    studies: Annotated[int, Field(ge=20, le=100_000)]
    scenarios: Annotated[tuple[ScenarioName, ...], Field(min_length=1)]
    seed: Seed


class Released(Part):
    """Files released beside a summary, read where they are at hand: routing mass, families, a summary of it."""

    mass: Text
    families: Text | None = None
    summary: Text | None = None


class Imported(Part):
    """A registration of evidence made elsewhere."""

    schema_: Annotated[Literal["prereg-moe/import/1"], Field(alias="schema")]
    id: Name
    title: Text
    question: Text
    authors: Annotated[tuple[Text, ...], Field(min_length=1)]
    foreknowledge: Text
    provenance: Provenance
    evidence: Annotated[Summary | Rows | Samples, Field(discriminator="kind")]
    rules: Annotated[dict[Name, Rule], Field(min_length=1)]
    claims: Annotated[tuple[Block, ...], Field(min_length=1)]
    controls: ModelControls = ModelControls()
    inference: Inference | None = None
    design: Design | None = None
    released: Released | None = None


def is_imported(path: Path) -> bool:
    """Whether a registration's folder (or document) is one of evidence made elsewhere.

    A document that cannot be read is none: whoever reads it next says why.
    """
    document = path / "registration.yaml" if path.is_dir() else path
    try:
        value = read_yaml(document.read_bytes(), document.name)
    except (OSError, Invalid):
        return False
    return isinstance(value, dict) and value.get("schema") == SCHEMA


def load(path: Path) -> Imported:
    """Return the registration in a YAML file.

    Raises:
        Invalid: with every problem found, each with its place.
        NotCheckable: the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotCheckable(Problem(str(path), f"cannot be read ({error.strerror})")) from error
    return parse(read_yaml(data, path.name))


def parse(value: Any) -> Imported:
    """Return the registration a plain value says.

    Raises:
        Invalid: with every problem found, each with its place.
    """
    document = read_as(Imported, value)
    if problems := list(_cross_check(document)):
        raise Invalid(problems)
    return document


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the document, generated from its types."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Imported.model_json_schema(by_alias=True)}


def expression(text: str, *, band: bool, where: str = "expression") -> rules.Expression:
    """Return an expression over published quantities.

    Args:
        text: the expression, or the name of a published one.
        band: whether ``null.mean + 2*null.sd`` was published as one number, ``null.band``.
        where: its place.

    Raises:
        Invalid: it is no expression.
    """
    text = rules.NAMED.get(text.strip(), text)
    return rules.parse(text.replace(_BAND_TEXT, BAND) if band else text, where, also={BAND})


# ------------------------------------------------------------------ what only the whole document can tell


def names(document: Imported, block: Block) -> tuple[str, ...] | None:
    """Return what a block is about, by name; None where only the file can tell (a summary's rows)."""
    evidence = document.evidence
    if isinstance(evidence, Summary):
        return None if block.about == "all" else block.about
    if isinstance(evidence, Samples):
        selective = isinstance(document.rules.get(block.rule), SelectiveRule)
        every = tuple(evidence.ablations) if selective else tuple(_sample_cells(evidence))
    else:
        every = tuple(
            "/".join(values)
            for values in product(*evidence.cells.values())
            if all(
                value in block.where[column]
                for column, value in zip(evidence.cells, values, strict=True)
                if block.where is not None and column in block.where
            )
        )
    return every if block.about == "all" else tuple(name for name in every if name in block.about)


def _sample_cells(evidence: Samples) -> Iterator[str]:
    for ablation, axis in product(evidence.ablations, evidence.axes):
        yield f"{ablation}/{axis}"


def _cross_check(document: Imported) -> Iterator[Problem]:
    yield from _evidence(document)
    for index, block in enumerate(document.claims):
        yield from _block(document, index, block)
    if len({block.id for block in document.claims}) < len(document.claims):
        yield Problem("claims", "use an id twice", "give each block its own id")
    about = {block.id: names(document, block) for block in document.claims if block.tier == "control"}
    counts = {id_: None if found is None else len(found) for id_, found in about.items()}
    yield from control_problems(document.controls, counts)
    if not isinstance(document.evidence, Summary) and document.inference is None:
        yield Problem("inference", "is missing", "verdicts on items need alpha, a correction and a seed")


def _evidence(document: Imported) -> Iterator[Problem]:
    evidence = document.evidence
    if isinstance(evidence, Summary):
        known = {*rules.QUANTITIES, BAND}
        for quantity in evidence.columns:
            if quantity not in known:
                yield Problem(f"evidence.columns.{quantity}", "is no quantity", f"known: {', '.join(sorted(known))}")
        return
    for name in ("design", "released"):
        if getattr(document, name) is not None:
            yield Problem(name, f"has no place beside {evidence.kind}", "it belongs to a summary")
    if isinstance(evidence, Rows):
        for column, values in evidence.cells.items():
            yield from repeats(f"evidence.cells.{column}", values)
        paired = evidence.baseline is not None and evidence.ablated is not None
        either = evidence.baseline is not None or evidence.ablated is not None
        if (evidence.delta is not None) == paired or (evidence.delta is not None and either):
            yield Problem("evidence", "needs either delta, or baseline and ablated", "name the columns of one of them")
        return
    for name, run in evidence.ablations.items():
        if run.axis is not None and run.axis not in evidence.axes:
            known_axes = ", ".join(evidence.axes)
            yield Problem(f"evidence.ablations.{name}.axis", f"{run.axis!r} is no axis", f"known: {known_axes}")


def _block(document: Imported, index: int, block: Block) -> Iterator[Problem]:
    where, rule = f"claims[{index}]", document.rules.get(block.rule)
    summary, rows = isinstance(document.evidence, Summary), isinstance(document.evidence, Rows)
    if rule is None:
        yield Problem(f"{where}.rule", f"{block.rule!r} is not one of the rules", f"known: {', '.join(document.rules)}")
        return
    if summary != isinstance(rule, ExpressionRule):
        fits = "an expression" if summary else "a rule over items"
        yield Problem(f"rules.{block.rule}", f"{rule.kind} does not fit {document.evidence.kind}", f"use {fits}")
    if isinstance(rule, ExpressionRule):
        yield from _expression(document, block, rule)
    if isinstance(rule, SelectiveRule):
        yield from _selective(document, where)
    if not (isinstance(document.evidence, Rows) and document.evidence.cluster) and _clustered(rule):
        yield Problem(f"rules.{block.rule}", "needs clusters", "name the column that holds them: evidence.cluster")
    if block.said is not None and not summary:
        yield Problem(f"{where}.said", "names a column of a summary", "remove it")
    if block.where is not None:
        for column in block.where:
            if not isinstance(document.evidence, Rows) or column not in document.evidence.cells:
                yield Problem(
                    f"{where}.where.{column}", "is no column that names cells", "choose one of evidence.cells"
                )
    if rows or isinstance(document.evidence, Samples):
        about = names(document, block) or ()
        if not about or (block.about != "all" and set(block.about) - set(about)):
            yield Problem(f"{where}.about", "names what is not registered", "name cells of evidence")


def _clustered(rule: CellRule | SelectiveRule | ExpressionRule) -> bool:
    tests = getattr(rule, "tests", (getattr(rule, "test", None),))
    return "clustered_t" in tests or getattr(rule, "unit", "item") == "cluster"


def _expression(document: Imported, block: Block, rule: ExpressionRule) -> Iterator[Problem]:
    columns = document.evidence.columns if isinstance(document.evidence, Summary) else {}
    if rule.refute is not None:
        yield Problem(f"rules.{block.rule}.refute", "has no place in a reading", "remove it; readings are three-valued")
    try:
        expression(rule.confirm, band=BAND in columns, where=f"rules.{block.rule}.confirm")
    except Invalid as error:
        yield from error.problems


def _selective(document: Imported, where: str) -> Iterator[Problem]:
    evidence = document.evidence
    if not isinstance(evidence, Samples):
        yield Problem(f"{where}.rule", "selective needs axes", "register lm-eval runs, or a rule for single cells")
    elif len(evidence.axes) < 2 or any(run.axis is None for run in evidence.ablations.values()):
        yield Problem("evidence.ablations", "selective needs each ablation's own axis and another one")
