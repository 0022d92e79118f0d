"""A small world in which everything is real except the models: files, seals, verdicts, no torch.

Three "models" of two MoE layers with twelve experts each. In every one of them axis number i
owns experts 2i and 2i+1 of each layer, and its routing says so. What happens when experts are
masked is an :class:`Effect`: the harm of losing all own experts, and the harm any mask does
everywhere. Scores follow from it, item by item, with noise that depends on names only, so the
same world gives the same bytes.

    world = World(folder)
    world.author(); world.record(); world.freeze(); world.run()
    world.judge(); world.report(); world.audit()

Each step is the package's own; only `record` and `run` write what the lab would have written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from prereg_moe import canonical, evidence, stages, store
from prereg_moe.atlas import Cells
from prereg_moe.auditing import Audit, audit
from prereg_moe.evidence import Scores
from prereg_moe.freezing import atlas_inputs, freeze, load_frozen
from prereg_moe.frozen import Condition, Frozen
from prereg_moe.registration import load
from prereg_moe.registration.schema import KeepOnly, Zero
from prereg_moe.registry import Registry
from prereg_moe.verdict import Verdicts

ID = "world"
TIME = "2026-01-01T00:00:00Z"
AXES = ("no", "en", "code")
LAYERS, EXPERTS, TOP_K, SIZE = (1, 2), 12, 2, 2
DRAWS, ITEMS = 30, 12
ENVIRONMENT = {
    "packages": {"prereg-moe": "0.1.0", "lm-eval": "0.4.13"},
    "python": "3.11",
    "machine": "none",
    "cpu": "none",
    "device": "cpu",
    "threads": 1,
}

Edit = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Effect:
    """What masking does to a model, in nats per token.

    Attributes:
        own: mean harm to an axis that loses all experts it owns, in proportion where it loses some.
        others: mean harm of any mask of a family's size, on every axis.
        spread: standard deviation over items.
        tail: one item in four is harmed this much more on every axis (negative: skewed the other way).
        original: what `own` is multiplied by where gates stay as they were.
    """

    own: float
    others: float = 0.0
    spread: float = 0.05
    tail: float = 0.0
    original: float = 1.0


MODULAR, DIFFUSE, NOTHING = Effect(own=1.0), Effect(own=0.0, others=0.3), Effect(own=0.0)
EFFECTS = {"standard": MODULAR, "planted": MODULAR, "randomised": DIFFUSE}


def registration() -> dict[str, Any]:
    """Return the world's registration as a plain value a test may change."""
    measure = {
        "kind": "task",
        "tasks": "./tasks",
        "task": "world_nll_{axis}",
        "metric": "nll",
        "per": "token",
        "harm": "increase",
        "items": ITEMS,
    }
    block = {"families": "all", "off": "all", "measure": "nll"}
    return {
        "schema": "prereg-moe/1",
        "id": ID,
        "title": "Expert families of a world without models",
        "question": "Does masking the experts an axis owns harm that axis, and it only?",
        "authors": ["The tests"],
        "foreknowledge": "Everything: the effects are written down in this world.",
        "models": {name: {"source": f"./models/{name}"} for name in EFFECTS},
        "corpora": {"A": {"source": "./corpora/A"}, "B": {"source": "./corpora/B"}},
        "axes": {"no": {"domain": "language"}, "en": {"domain": "language"}, "code": {"domain": "capability"}},
        "measures": {
            "nll": {**measure, "corpus": "B"},
            "nll_a": {**measure, "corpus": "A", "skip": 8},
        },
        "atlas": {"corpus": "A", "items": 8},
        "families": [
            {
                "axes": "all",
                "build": {"kind": "top_lift", "size": SIZE, "unit": "per_layer", "exclude": {"kind": "none"}},
            }
        ],
        "intervention": {"kind": "mask", "gates": "renorm"},
        "controls": {
            "null": {"kind": "random_sets", "draws": DRAWS, "seed": "7"},
            "positive": {"claims": "planted", "at_least": 3},
            "negative": {"claims": "randomised", "at_most": 0},
        },
        "rules": {
            "modular": {"kind": "modular", "kappa": 3, "minimum_effect": 0.05},
            "selective": {"kind": "selective", "kappa": 3, "minimum_effect": 0.05},
            "point": {"kind": "expression", "confirm": "paper_point"},
        },
        "claims": [
            {"id": "main", "hypothesis": "The family is a module.", "tier": "confirmatory"}
            | block
            | {"model": "standard", "rule": "modular"},
            {"id": "planted", "hypothesis": "The rule finds planted modules.", "tier": "control"}
            | block
            | {"model": "planted", "rule": "modular"},
            {"id": "randomised", "hypothesis": "The rule finds nothing in noise.", "tier": "control"}
            | block
            | {"model": "randomised", "rule": "modular"},
            {"id": "again", "hypothesis": "It is selective on other items.", "tier": "exploratory"}
            | block
            | {"model": "standard", "rule": "selective", "measure": "nll_a"},
            {"id": "points", "hypothesis": "It passes the point rule.", "tier": "exploratory"}
            | block
            | {"model": "standard", "rule": "point"},
        ],
        "replication": [{"id": "both", "claims": ["main", "again"], "require": 2}],
        "inference": {"alpha": 0.05, "seed": "11", "resamples": 999, "escalation": 999, "few_units": 10},
    }


def small(document: dict[str, Any]) -> None:
    """Make the world's study as small as one with controls and random sets can be: an edit for :meth:`World.author`."""
    document["controls"]["null"]["draws"] = 4
    document["controls"]["positive"]["at_least"] = 1
    document["inference"]["alpha"] = 0.24
    document["claims"] = document["claims"][:3]
    for block in document["claims"][1:]:
        block["families"] = ["no"]
    del document["replication"]


def multiverse(document: dict[str, Any]) -> None:
    """Give the world's registration a multiverse of its confirmatory block: an edit for :meth:`World.author`."""
    document["rules"]["interval"] = {"kind": "expression", "confirm": "paper_ci"}
    document["controls"]["null"]["tolerance"] = 0.5
    document["multiverse"] = [
        {
            "id": "grid",
            "claims": "main",
            "measures": ["nll", "nll_a"],
            "rules": ["modular", "selective", "point", "interval"],
            "corrections": ["max_t", "hochberg", "bh", "none"],
            "intervals": ["bootstrap_t", "percentile"],
            "null": ["size", "mass"],
            "gates": ["renorm", "original"],
        }
    ]


@dataclass(frozen=True, slots=True)
class World:
    """A registry in a folder, and what masking does to each of its models."""

    root: Path
    effects: Mapping[str, Effect] = field(default_factory=lambda: EFFECTS)

    @property
    def registry(self) -> Registry:
        return Registry(self.root)

    @property
    def folder(self) -> Path:
        return self.registry.registration(ID)

    @property
    def frozen(self) -> Frozen:
        return load_frozen(self.registry, ID)

    @property
    def evidence(self) -> list[Path]:
        """The evidence files, in the order of their names."""
        return sorted(self.registry.evidence(ID).glob("*.json"))

    def file(self, condition: Condition) -> Path:
        """Where a condition's evidence lies."""
        return self.registry.evidence(ID) / evidence.file_name(condition.digest)

    def author(self, edit: Edit | None = None) -> None:
        """Write the registration, changed by ``edit``, and everything it names."""
        document = registration()
        if edit is not None:
            edit(document)
        for name in EFFECTS:
            self._put(f"models/{name}/model.safetensors", f"weights of {name}")
            self._put(f"models/{name}/config.json", "{}")
        for corpus, items in (("A", 8 + ITEMS), ("B", ITEMS)):
            for axis in AXES:
                lines = [{"id": f"{corpus}-{axis}-{n}", "text": f"text {n}", "book": f"{n % 4}"} for n in range(items)]
                self._put(f"corpora/{corpus}/{axis}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        for axis in AXES:
            self._put(
                f"tasks/world_nll_{axis}.yaml",
                f"task: world_nll_{axis}\nmetric_list: [{{metric: nll}}, {{metric: acc}}]\n",
            )
        self._put("registration.yaml", yaml.safe_dump(document, sort_keys=False, allow_unicode=True))

    def record(self) -> str:
        """Write and seal the routing atlas: every model's routing looks specialised."""
        inputs = atlas_inputs(load(self.folder / "registration.yaml"), self.folder, self.root)
        path = self.folder / "atlas.json"
        models = {name: atlas_table() for name in inputs["models"]}
        canonical.write(path, {"schema": "prereg-moe/atlas/1", "inputs": inputs, "models": models})
        return self.registry.seal("atlas", ID, [path], time=TIME)

    def freeze(self) -> Frozen:
        return freeze(self.registry, ID, time=TIME)

    def compute(self) -> None:
        """Write the evidence of every condition, unsealed."""
        frozen = self.frozen
        for condition in frozen.plan.values():
            canonical.write(self.file(condition), self.made(frozen, condition))

    def run(self) -> str:
        self.registry.seal("start", ID, [], time=TIME)
        self.compute()
        return store.finish(self.registry, self.frozen, time=TIME)

    def judge(self) -> Verdicts:
        return stages.verdict(self.registry, ID, time=TIME)[0]

    def report(self) -> str:
        """Render every format and return the ledger's head."""
        return stages.render(self.registry, ID, None, time=TIME)[1]

    def audit(self, head: str | None = None) -> Audit:
        return audit(self.registry, ID, expected_head=head)

    def made(self, frozen: Frozen, condition: Condition, **changes: Any) -> dict[str, Any]:
        """Return the evidence of a condition as the lab would have written it."""
        return evidence.document(
            frozen,
            condition,
            {axis: self.scores(condition, axis, len(frozen.items(condition.measure)[axis])) for axis in AXES},
            **{
                "plan": canonical.digest({"model": condition.model, "measure": condition.measure}),
                "proof": None if condition.is_baseline else proof(condition),
                "environment": ENVIRONMENT,
                **changes,
            },
        )

    def scores(self, condition: Condition, axis: str, items: int) -> Scores:
        """Return what the condition scores on an axis, in nats per passage."""
        tokens = np.array([16 + 4 * (index % 3) for index in range(items)])
        baseline = 2 + 0.3 * _noise(condition.model, condition.measure, axis, count=items)
        nats = baseline + self._harm(condition, axis, items)
        metric = tuple(float(value) for value in nats * tokens)
        return Scores(metric, tuple(tokens.tolist()), tuple([value] for value in metric))

    def _harm(self, condition: Condition, axis: str, items: int) -> Any:
        if condition.is_baseline:
            return np.zeros(items)
        effect = self.effects[condition.model]
        own = effect.own * (effect.original if gate_rule(condition) == "original" else 1.0)
        tail = effect.tail * (np.arange(items) % 4 == 0)
        noise = effect.spread * _noise(condition.model, condition.measure, axis, repr(condition.cells), count=items)
        return own * lost(axis, condition) + effect.others + tail + noise

    def _put(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def owned(axis: str) -> tuple[int, ...]:
    """Return the experts an axis owns in every layer."""
    index = AXES.index(axis)
    return (2 * index, 2 * index + 1)


def gate_rule(condition: Condition) -> str | None:
    """Return what a condition's intervention says of gates, None where it says nothing."""
    return getattr(condition.intervention, "gates", None)


def gone(condition: Condition) -> Cells:
    """Return the cells that a condition masks or zeroes."""
    if not isinstance(condition.intervention, KeepOnly):
        return condition.cells
    return {layer: tuple(set(range(EXPERTS)) - set(kept)) for layer, kept in condition.cells.items()}


def lost(axis: str, condition: Condition) -> float:
    """Return the share of an axis's own cells that a condition takes from it."""
    cells = gone(condition)
    return sum(len(set(owned(axis)) & set(cells.get(layer, ()))) for layer in LAYERS) / (len(LAYERS) * SIZE)


def proof(condition: Condition) -> dict[str, Any]:
    """Return what the guards of an intervention that happened count."""
    cells, fired = sum(map(len, gone(condition).values())), {str(layer): 5 for layer in condition.cells}
    if isinstance(condition.intervention, Zero):
        return {"leaks": 0, "masked_cells": 0, "edited_cells": cells, "edited_slots": 40, "fired": fired}
    return {"leaks": 0, "masked_cells": cells, "fired": fired}


def atlas_table() -> dict[str, Any]:
    """Return one model's routing: an axis's own experts take most of it, the rest is uneven."""
    mass = {
        axis: [
            [40.0 if expert in owned(axis) else 1 + 0.1 * ((7 * expert + layer) % 11) for expert in range(EXPERTS)]
            for layer in LAYERS
        ]
        for axis in AXES
    }
    return {"layers": list(LAYERS), "experts": EXPERTS, "top_k": TOP_K, "mass": mass}


def tree(root: Path) -> dict[str, str]:
    """Return name -> digest of every file below a folder, hidden ones too."""
    return {
        path.relative_to(root).as_posix(): canonical.digest_file(path) for path in root.rglob("*") if path.is_file()
    }


def _noise(*names: str, count: int) -> Any:
    key = hashlib.blake2b("/".join(names).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(key, "big")).standard_normal(count)
