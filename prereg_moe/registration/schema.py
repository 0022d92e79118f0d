"""What a registration says, as types. Every choice a study can differ by is a field here.

What varies between studies is a tagged union on ``kind``: families are built, interventions
act, measures score, rules decide, controls gate. Each union lists what this version runs; `planned`
lists the kinds it refuses by name.

Defaults are choices too: they are expanded into the frozen registration and printed. What a
claim depends on (minimum effect, kappa, alpha, the number of null draws, off-target axes,
foreknowledge) has no default.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag

__all__ = [
    "SCHEMA",
    "Atlas",
    "Axis",
    "Claims",
    "Controls",
    "Corpus",
    "Correction",
    "Demand",
    "Diagnosis",
    "Engine",
    "ExclusionRule",
    "ExplicitFamily",
    "ExpressionRule",
    "FamilyBlock",
    "Inference",
    "Interval",
    "IntervalKind",
    "Intervention",
    "KeepOnly",
    "Looks",
    "Mask",
    "Model",
    "ModelControl",
    "ModularRule",
    "Multiverse",
    "NoninferiorityRule",
    "NullControl",
    "Part",
    "PlannedEffects",
    "Registration",
    "Replication",
    "Report",
    "Rule",
    "ScenarioName",
    "SelectiveRule",
    "SweepEngine",
    "TaskMeasure",
    "TopLift",
    "Zero",
]

SCHEMA = "prereg-moe/1"

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=10_000)]
Source = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Seed = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,20}$")]  # RFC 8785 has no 64-bit integers
NullSeed = Annotated[str, StringConstraints(pattern=r"^([0-9]{1,20}|challenge)$")]


class Part(BaseModel):
    """A part of a document: strict, frozen, and without keys nobody declared."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Model(Part):
    """A checkpoint: ``testbed:NAME``, ``./folder`` beside the registration, or ``hf:org/name@commit``."""

    source: Source
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    experts_implementation: Literal["grouped_mm", "batched_mm", "eager"] = "grouped_mm"


class Corpus(Part):
    """A folder of items, one JSON-lines file an axis; each line has a unique text ``id``."""

    source: Source
    file: Text = "{axis}.jsonl"


class Axis(Part):
    """What is measured (a language, a capability) and the domain it belongs to."""

    domain: Name
    title: str = ""


class TaskMeasure(Part):
    """A per-item score of an lm-evaluation-harness task on every axis.

    ``task`` may hold ``{axis}``, or name a task for each axis. ``fewshot`` puts that many of the
    task's own examples before each item (left out: as the task says), ``chat_template`` sends
    prompts through the tokenizer's template. ``per: token`` divides the task's metric by the number of
    tokens lm-eval scored for the item, so a summed log-likelihood becomes nats per token.
    """

    kind: Literal["task"]
    tasks: Source
    task: Text | dict[Name, Text]
    metric: Name
    per: Literal["item", "token"]
    harm: Literal["increase", "decrease"]
    corpus: Name
    unit: Literal["item", "cluster"] = "item"
    cluster: Name | None = None
    skip: Annotated[int, Field(ge=0)] = 0
    items: Annotated[int, Field(ge=2)]
    fewshot: Annotated[int, Field(ge=0, le=100)] | None = None
    chat_template: bool | None = None


class Atlas(Part):
    """Which routing statistic, on which items, families are built from."""

    corpus: Name
    text: Name = "text"
    statistic: Literal["gate_mass"] = "gate_mass"
    skip: Annotated[int, Field(ge=0)] = 0
    items: Annotated[int, Field(ge=1)]


class ExclusionRule(Part):
    """Experts no family may hold.

    ``none``; ``ids`` (named here); ``shared_core``: those whose routing share is at least
    ``at_least`` times the uniform share 1/E in *every* axis.
    """

    kind: Literal["none", "ids", "shared_core"]
    ids: tuple[int, ...] = ()
    at_least: Annotated[float, Field(gt=0)] = 1.0


class TopLift(Part):
    """The ``size`` experts of highest lift for the axis.

    ``unit`` says what an expert is: ``global_id`` pools an id over layers and takes it in every
    layer; ``per_layer`` takes ``size`` experts in each layer; ``cells`` takes ``size`` (layer,
    expert) cells anywhere.
    """

    kind: Literal["top_lift"]
    size: Annotated[int, Field(ge=1)]
    unit: Literal["global_id", "per_layer", "cells"]
    exclude: ExclusionRule


class ExplicitFamily(Part):
    """Cells written out: decoder layer -> expert ids, the same for every model."""

    kind: Literal["explicit"]
    cells: dict[Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,3})$")], tuple[int, ...]]
    unit: Literal["global_id", "per_layer", "cells"] = "per_layer"


class FamilyBlock(Part):
    """One hypothesised family for each axis named; ``name`` may hold ``{axis}``."""

    name: Text = "{axis}"
    axes: Literal["all"] | tuple[Name, ...]
    build: Annotated[TopLift | ExplicitFamily, Field(discriminator="kind")]


class Mask(Part):
    """The router cannot choose the family's experts.

    ``gates: renorm`` removes them before the softmax (the gates of the others grow);
    ``original`` removes them from the selection only.
    """

    kind: Literal["mask"]
    gates: Literal["renorm", "original"]


class Zero(Part):
    """The family's experts contribute nothing, and the routing is kept.

    A token that selected one of them selects it still, with the same gate, and gets nothing from
    it: no other expert takes its place, and no gate is renormalised.
    """

    kind: Literal["zero"]


class KeepOnly(Part):
    """The router can choose nothing but the family's experts, in the layers the family names: a subset is deployed.

    In those layers every other expert is masked, ``gates`` as for ``mask``; a layer the family does
    not name keeps all of its experts. An effect is what is lost by deploying the family alone, + is
    harm, so what is claimed of it is that it is small (``noninferiority``). A random set is kept in
    the family's place.
    """

    kind: Literal["keep_only"]
    gates: Literal["renorm", "original"]


Intervention = Annotated[Mask | Zero | KeepOnly, Field(discriminator="kind")]


class NullControl(Part):
    """Random expert sets of the family's size, each scored on every axis.

    ``match: size`` draws uniformly; families of one size share their draws. ``match: mass`` also
    asks that a set takes the family's share of its own axis's routing within ``tolerance``, a
    fraction of that share (0.02); every family then has draws of its own. A multiverse that also
    matches by mass needs the ``tolerance`` as well.

    ``seed: challenge`` leaves the seed to a reviewer: nothing is drawn, and nothing can run, before a
    nonce signed for the frozen registration is sealed. So no score of a random set is older than the nonce.
    """

    kind: Literal["random_sets"]
    draws: Annotated[int, Field(ge=1, le=1_000_000)]
    match: Literal["size", "mass"] = "size"
    tolerance: Annotated[float, Field(gt=0, lt=1)] | None = None
    pool: Literal["all"] = "all"
    seed: NullSeed


class ModelControl(Part):
    """A block of control claims and how many of them must (at least) or may (at most) be confirmed."""

    claims: Name
    at_least: Annotated[int, Field(ge=0)] | None = None
    at_most: Annotated[int, Field(ge=0)] | None = None


class ModelControls(Part):
    """Blocks of claims that show whether the whole works: on a model that has modules, on one that has none."""

    positive: ModelControl | None = None
    negative: ModelControl | None = None


class Controls(ModelControls):
    """What must hold before any other claim counts."""

    null: NullControl | None = None


class ModularRule(Part):
    """The family harms its own axis more than random experts do, and every other axis at most 1/kappa as much."""

    kind: Literal["modular"]
    kappa: Annotated[float, Field(gt=0, le=1e6)]
    minimum_effect: Annotated[float, Field(ge=0, le=1e6)]
    absolute: bool = False


class SelectiveRule(Part):
    """As ``modular`` without null draws: on-target effect above the minimum, and selective."""

    kind: Literal["selective"]
    kappa: Annotated[float, Field(gt=0, le=1e6)]
    minimum_effect: Annotated[float, Field(ge=0, le=1e6)]
    absolute: bool = False


class NoninferiorityRule(Part):
    """The intervention harms the family's own axis by less than ``margin`` on average.

    ``better_than_random`` claims as well that it harms it less than the same done to random expert
    sets, and needs them. Off-target axes are shown and decide nothing.
    """

    kind: Literal["noninferiority"]
    margin: Annotated[float, Field(gt=0, le=1e6)]
    better_than_random: bool = False


class ExpressionRule(Part):
    """One line over estimates in a closed grammar; ``paper_point`` and ``paper_ci`` name the published ones.

    A true ``confirm`` confirms, a true ``refute`` refutes, anything else is inconclusive.
    ``worst_off`` says which off-target axis ``off`` is: the one with the largest estimate, or
    the one with the largest upper bound.
    """

    kind: Literal["expression"]
    confirm: Text
    refute: Text | None = None
    worst_off: Literal["estimate", "upper_bound"] = "estimate"


Rule = Annotated[ModularRule | SelectiveRule | NoninferiorityRule | ExpressionRule, Field(discriminator="kind")]


class Claims(Part):
    """A block of claims: one for each family of a model, judged together by one rule.

    ``off`` says which axes are off-target: ``all`` others, those of the same ``domain``, or a list.
    """

    id: Name
    hypothesis: Text
    tier: Literal["confirmatory", "exploratory", "control"]
    model: Name
    families: Literal["all"] | tuple[Text, ...]
    measure: Name
    off: Literal["all", "domain"] | tuple[Name, ...]
    rule: Name


IntervalKind = Literal["bootstrap_t", "percentile", "basic", "bca", "hall_t"]


class Interval(Part):
    """How reported intervals are made."""

    kind: IntervalKind = "bootstrap_t"
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    sides: Literal["two"] = "two"


class Multiplicity(Part):
    """Step-down max-T inside a block of claims; ``alpha`` is divided by the number of confirmatory blocks."""

    method: Literal["max_t"] = "max_t"
    between: Literal["bonferroni"] = "bonferroni"


class Inference(Part):
    """Error rates and resampling."""

    alpha: Annotated[float, Field(gt=0, lt=0.5)]
    multiplicity: Multiplicity = Multiplicity()
    interval: Interval = Interval()
    resamples: Annotated[int, Field(ge=999, le=999_999)] = 9_999
    escalation: Annotated[int, Field(ge=999, le=999_999)] = 99_999
    seed: Seed
    linked_items: bool = False
    skew_guard: Annotated[float, Field(gt=0)] = 0.2
    few_units: Annotated[int, Field(ge=2)] = 30


class Replication(Part):
    """A family is replicated when at least ``require`` of the named blocks of claims support it."""

    id: Name
    claims: Annotated[tuple[Name, ...], Field(min_length=2)]
    require: Annotated[int, Field(ge=1)]


Correction = Literal["max_t", "bonferroni", "holm", "hochberg", "hommel", "bh", "by", "none"]


class Multiverse(Part):
    """A block of claims judged under every combination of the choices listed: exploratory, it decides nothing.

    A list that is left out holds the registered choice only; one that is given holds it too. A
    choice is combined with the rules it matters to: corrections with rules that test, random sets
    with rules that compare with them, intervals with expressions that name an end of one; gates with
    interventions that have them. Claims x specifications are at most 10,000.
    """

    id: Name
    claims: Name
    measures: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    rules: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    corrections: Annotated[tuple[Correction, ...], Field(min_length=1)] | None = None
    intervals: Annotated[tuple[IntervalKind, ...], Field(min_length=1)] | None = None
    null: Annotated[tuple[Literal["size", "mass"], ...], Field(min_length=1)] | None = None
    gates: Annotated[tuple[Literal["renorm", "original"], ...], Field(min_length=1)] | None = None


Device = Literal["cpu", "cuda", "auto"]


class Engine(Part):
    """What computes the responses; everything here can change a value in the last digits."""

    kind: Literal["stock"] = "stock"
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    max_length: Annotated[int, Field(ge=8)] | None = None
    threads: Annotated[int, Field(ge=1)] = 1
    device: Device = "cpu"


class SweepEngine(Part):
    """Computes what `stock` computes, with all shared that conditions share, and checks itself against it."""

    kind: Literal["sweep"]
    batch_tokens: Annotated[int, Field(ge=16)] = 4096
    pack: Annotated[int, Field(ge=1, le=1024)] = 24
    check: Annotated[int, Field(ge=1, le=1024)] = 4
    tolerance: Annotated[float, Field(gt=0)] = 0.001
    max_length: Annotated[int, Field(ge=8)] | None = None
    threads: Annotated[int, Field(ge=1)] = 1
    device: Device = "cpu"


def _engine_kind(value: object) -> str:
    """Return the kind of an engine; one that names none is the reference."""
    kind = value.get("kind", "stock") if isinstance(value, dict) else getattr(value, "kind", "stock")
    return str(kind)


class Stopping(Part):
    """When data collection ends: ``fixed`` runs every registered condition and looks once."""

    kind: Literal["fixed"] = "fixed"


class Looks(Part):
    """When data collection ends: after the last item, or earlier, behind a registered look that was enough.

    A look judges the claims on the first ``at`` (a share) of every measure's items, at the part of alpha that
    ``spending`` leaves it; what is CONFIRMED or REFUTED then stays so.
    """

    kind: Literal["looks"]
    at: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1, max_length=10)]
    spending: Literal["obrien_fleming", "pocock"]


class Report(Part):
    """The templates verdicts are shown by; their bytes are frozen beside the registration.

    ``./FOLDER`` holds templates of one's own (``report.html.j2`` and the like), each used instead of
    the package's of the same name; templates see the verdict document alone, in a sandbox.
    """

    template: Annotated[str, StringConstraints(pattern=r"^(default|\./.{1,498})$")] = "default"


ScenarioName = Literal[
    "normal", "skewed", "off_heavy", "on_heavy", "heavy_tailed", "clustered", "correlated_draws", "pilot"
]


class PlannedEffects(Part):
    """The effects a study is planned for, in units of the measure: own axis, other axes, random expert sets."""

    on: Annotated[float, Field(gt=0)]
    off: Annotated[float, Field(ge=0)]
    random: Annotated[float, Field(ge=0)] = 0.0


class Demand(Part):
    """Error rates a diagnosis has to show: its Monte-Carlo interval lies on the right side of each bound."""

    fwer_at_most: Annotated[float, Field(gt=0, lt=1)] | None = None
    power_at_least: Annotated[float, Field(gt=0, lt=1)] | None = None


class Diagnosis(Part):
    """What `prereg-moe diagnose` simulates, and what freezing demands of it.

    ``effects`` names measures; one that is not named is planned at 24 minimum effects on its own
    axis, 4 on others and 2 for random sets. ``resamples`` may be smaller than the rule's for speed.
    """

    studies: Annotated[int, Field(ge=20, le=100_000)]
    scenarios: Annotated[tuple[ScenarioName, ...], Field(min_length=1)]
    resamples: Annotated[int, Field(ge=199, le=999_999)] = 999
    effects: dict[Name, PlannedEffects] = {}
    demand: Demand = Demand()
    on_failure: Literal["refuse", "warn"] = "refuse"


class Registration(Part):
    """A pre-registered study."""

    schema_: Annotated[Literal["prereg-moe/1"], Field(alias="schema")]
    id: Name
    title: Text
    question: Text
    authors: Annotated[tuple[Text, ...], Field(min_length=1)]
    foreknowledge: Text
    exclusions: Text = "None. Every registered item of every registered condition is scored and judged."
    models: Annotated[dict[Name, Model], Field(min_length=1)]
    corpora: Annotated[dict[Name, Corpus], Field(min_length=1)]
    axes: Annotated[dict[Name, Axis], Field(min_length=1)]
    measures: Annotated[
        dict[Name, TaskMeasure],
        Field(min_length=1),
    ]
    atlas: Atlas | None = None
    families: tuple[FamilyBlock, ...] = ()
    intervention: Intervention
    controls: Controls = Controls()
    rules: Annotated[dict[Name, Rule], Field(min_length=1)]
    claims: Annotated[tuple[Claims, ...], Field(min_length=1)]
    replication: tuple[Replication, ...] = ()
    multiverse: Annotated[tuple[Multiverse, ...], Field(min_length=1)] | None = None
    inference: Inference
    engine: Annotated[
        Annotated[Engine, Tag("stock")] | Annotated[SweepEngine, Tag("sweep")], Discriminator(_engine_kind)
    ] = Engine()
    stopping: Annotated[Stopping | Looks, Field(discriminator="kind")] = Stopping()
    diagnosis: Diagnosis | None = None
    report: Report = Report()
