"""What is simulated: scenarios, the effects and spreads of a study, and the truths it is put in.

A harm is made item by item. Its mean is the effect θ of the truth; around it::

    θ + θ·(m - 1) + on/12·N        without a pilot: harm varies in proportion to itself
    θ + sd·(m - 1) / sd(m)         with a pilot: sd (and the sign of the skew) are the pilot's, by axis

N is standard normal and m a positive multiplier of mean 1 whose distribution is the scenario: a lognormal
``exp(0.4·S - 0.08 + u·Z - u²/2)``, S shared by everything measured on the item; or 1 + 0.826·(a mixture of S and
Z), Z normal or Student t with 4 degrees of freedom scaled to variance 1. Clustered items share a lognormal
factor with σ = 0.6. Random expert sets have effects of mean ``random`` and coefficient of variation 0.4 (or the
pilot's standard deviation), the same on every axis. At 24 minimum effects on the own axis these are the scenarios
of docs/calibration.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from prereg_moe.errors import Invalid, Problem
from prereg_moe.registration import Registration, block_alpha, family_names, needs_null, off_axes, undiagnosed
from prereg_moe.registration.schema import Claims, ExpressionRule, NoninferiorityRule, PlannedEffects, ScenarioName

__all__ = [
    "DRAW_CV",
    "SCENARIOS",
    "Block",
    "Design",
    "Role",
    "Scales",
    "Scenario",
    "Spread",
    "Truth",
    "blocks_of",
    "harms",
    "lognormal_variance",
    "planned",
    "scenarios_of",
]

DRAW_CV = 0.4  # of random sets' effects, docs/calibration.md
_UNIT = 0.05  # a minimum effect where the rule has none
_KAPPA = 3.0  # where an expression is simulated alone

Role = Literal["judged", "exploratory", "positive", "negative"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """How harm is spread around its mean.

    Attributes:
        shape: ``lognormal``, ``normal``, ``t``, or ``pilot`` (lognormal with the pilot's skew, by axis).
        u_on: log-scale spread of a condition's own variation on its own axis (lognormal).
        u_off: the same on other axes.
        cluster_sigma: log-scale spread of a factor shared by a cluster; 0 for none. Where the measure registers
            no clusters these are runs of five items, and the rule does not know of them.
        draw_correlation: correlation of random sets' own variation with one another.
    """

    shape: Literal["lognormal", "normal", "t", "pilot"]
    u_on: float = 0.6
    u_off: float = 0.6
    cluster_sigma: float = 0.0
    draw_correlation: float = 0.0


SCENARIOS: dict[ScenarioName, Scenario] = {
    "normal": Scenario("normal"),
    "skewed": Scenario("lognormal"),
    "off_heavy": Scenario("lognormal", u_on=0.3, u_off=1.2),
    "on_heavy": Scenario("lognormal", u_on=1.2, u_off=0.3),
    "heavy_tailed": Scenario("t"),
    "clustered": Scenario("lognormal", u_on=0.4, u_off=0.4, cluster_sigma=0.6),
    "correlated_draws": Scenario("lognormal", draw_correlation=0.5),
    "pilot": Scenario("pilot"),
}


@dataclass(frozen=True, slots=True)
class Spread:
    """Standard deviation and skewness of the harm of single items."""

    sd: float
    skew: float


@dataclass(frozen=True, slots=True)
class Scales:
    """Spreads taken from a pilot; effects are never taken from it, because found effects are exaggerated.

    Attributes:
        source: digests of the pilot's frozen registration and evidence.
        on: axis -> spread of the harm of its own families.
        off: axis -> spread of the harm of other axes' families.
        draws_sd: standard deviation of the effects of random sets, None where the pilot has none.
    """

    source: Mapping[str, str]
    on: Mapping[str, Spread]
    off: Mapping[str, Spread]
    draws_sd: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the scales as plain JSON."""
        sides = {"on": self.on, "off": self.off}
        return {
            **self.source,
            "draws_sd": self.draws_sd,
            "spreads": {
                side: {axis: {"sd": spread.sd, "skew": spread.skew} for axis, spread in table.items()}
                for side, table in sides.items()
            },
        }


@dataclass(frozen=True, slots=True)
class Block:
    """One block of claims as it is simulated.

    Attributes:
        claims: the block.
        role: ``judged`` (the claims whose errors count), ``exploratory`` beside them, or which control it is.
        alpha: its family-wise level.
        axis: family -> its own axis.
        off: family -> its off-target axes.
        draws: random sets, 0 where its rule needs none.
        kappa: κ of the boundary.
        minimum_effect: δ0 of the boundary.
        effects: what the study is planned for.
    """

    claims: Claims
    role: Role
    alpha: float
    axis: Mapping[str, str]
    off: Mapping[str, tuple[str, ...]]
    draws: int
    kappa: float
    minimum_effect: float
    effects: PlannedEffects


@dataclass(frozen=True, slots=True)
class Design:
    """Everything simulated studies have in common; what a worker is given.

    Attributes:
        registration: the study.
        seed: key of every stream.
        resamples: B of the simulated studies; they escalate to as many times more as is registered.
        cluster_sizes: measure -> axis -> items of each cluster, for measures whose units are clusters.
        scales: spreads of a pilot.
    """

    registration: Registration
    seed: str
    resamples: int
    cluster_sizes: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    scales: Scales | None = None

    @property
    def escalation(self) -> int:
        """B of doubtful simulated studies: ``resamples`` times the registered escalation over resamples."""
        inference = self.registration.inference
        return max(self.resamples, self.resamples * inference.escalation // inference.resamples)


@dataclass(frozen=True, slots=True)
class Truth:
    """What is true of every family of a simulated study.

    ``selectivity``: the claim is false because one off-axis lies exactly at on/κ, the others far below.
    ``minimum_effect``: it is false because the effect is exactly the minimum above random sets, and nothing else
    is harmed. ``planned``: it is true, the planned effects times ``factor``. ``random``: a family is one more
    random set.
    """

    kind: Literal["selectivity", "minimum_effect", "planned", "random"]
    factor: float = 1.0


def scenarios_of(registration: Registration, *, pilot: bool) -> tuple[ScenarioName, ...]:
    """Return the registered scenarios; where none are, those that fit the design."""
    if registration.diagnosis is not None:
        return registration.diagnosis.scenarios
    clustered = any(measure.unit == "cluster" for measure in registration.measures.values())
    left_out = {*(() if clustered else ("clustered",)), *(() if pilot else ("pilot",))}
    return tuple(name for name in SCENARIOS if name not in left_out)


def blocks_of(registration: Registration) -> tuple[Block, ...]:
    """Return the blocks that are simulated: every one, but controls that are nobody's.

    Confirmatory blocks are judged, the exploratory ones if there are none.

    Raises:
        Invalid: no block but controls, or a claim of little harm.
    """
    if problem := undiagnosed(registration):
        raise Invalid(problem)
    tiers = {claims.tier for claims in registration.claims}
    judged = "confirmatory" if "confirmatory" in tiers else "exploratory"
    if judged not in tiers:
        raise Invalid(Problem("claims", "are controls only", "register a claim to diagnose"))
    roles: dict[str, Role] = {}
    controls = registration.controls
    if controls.positive is not None:
        roles[controls.positive.claims] = "positive"
    if controls.negative is not None:
        roles[controls.negative.claims] = "negative"
    return tuple(
        _block(registration, claims, roles.get(claims.id, "judged" if claims.tier == judged else "exploratory"))
        for claims in registration.claims
        if claims.tier != "control" or claims.id in roles
    )


def _block(registration: Registration, claims: Claims, role: Role) -> Block:
    names = family_names(registration)
    families = tuple(names) if claims.families == "all" else claims.families
    null = registration.controls.null
    kappa, minimum = _boundary(registration, claims)
    return Block(
        claims,
        role,
        block_alpha(registration, claims),
        {family: names[family][0] for family in families},
        {family: off_axes(registration, claims, names[family][0]) for family in families},
        null.draws if null is not None and needs_null(registration, claims) else 0,
        kappa,
        minimum,
        planned(registration, claims.measure, minimum),
    )


def _boundary(registration: Registration, claims: Claims) -> tuple[float, float]:
    """Return κ and δ0 of the block's rule; for an expression those of the first rule that has them."""
    candidates = [registration.rules[claims.rule], *registration.rules.values()]
    for rule in candidates:
        if not isinstance(rule, ExpressionRule | NoninferiorityRule):
            return rule.kappa, rule.minimum_effect
    return _KAPPA, _UNIT


def planned(registration: Registration, measure: str, minimum_effect: float) -> PlannedEffects:
    """Return the effects registered for a measure, or 24, 4 and 2 minimum effects (0.05 where it is 0)."""
    if registration.diagnosis is not None and measure in registration.diagnosis.effects:
        return registration.diagnosis.effects[measure]
    unit = minimum_effect or _UNIT
    return PlannedEffects(on=24 * unit, off=4 * unit, random=2 * unit)


def harms(block: Block, truth: Truth, axes: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Return family -> axis -> mean harm under a truth.

    The bound axis of a family at the boundary of selectivity is its first off-axis for the first family, the
    second for the second, and so on in a circle.
    """
    effects, found = block.effects, {}
    on, off, bound = effects.on, effects.off, effects.off
    if truth.kind == "planned":
        on, off, bound = truth.factor * on, truth.factor * off, truth.factor * off
    elif truth.kind == "selectivity":
        off, bound = min(off, on / block.kappa) / 2, on / block.kappa
    elif truth.kind == "minimum_effect":
        on, off, bound = block.minimum_effect + (effects.random if block.draws else 0.0), 0.0, 0.0
    else:
        on = off = bound = effects.random
    for index, (family, axis) in enumerate(block.axis.items()):
        others = block.off[family]
        found[family] = dict.fromkeys(axes, off) | {others[index % len(others)]: bound, axis: on}
    return found


def lognormal_variance(skew: float) -> float:
    """Return the log-scale variance w of a lognormal with this absolute skewness: ``(e^w + 2)·√(e^w - 1)``.

    >>> round(lognormal_variance(6.18487713863), 6)
    1.0
    """
    low, high = 1e-6, 5.0
    for _ in range(60):
        middle = (low + high) / 2
        if (math.exp(middle) + 2) * math.sqrt(math.expm1(middle)) < abs(skew):
            low = middle
        else:
            high = middle
    return (low + high) / 2
