"""What the ledger says about a study beyond its evidence: everything a verdict has to own up to.

A verdict is judged from evidence and from the ledger as it stood in front of the verdict's own
seal. :func:`read` takes that ledger and returns a :class:`Record`: amendments, deviations, how
often a run was started, which looks were taken, and which other registrations are about the same thing.

The last is the **claim space** of a confirmatory block of claims: the weights, the texts and the
metric it is about, by their digests. Registering a claim several times and keeping the winner is
multiple testing, so all registrations frozen on one key share its alpha, also those that were
abandoned: with k of them a block is judged at alpha / k. A registration that is alone on its keys is
judged as if the rule were not there. Where all k are frozen before the first of them is judged (the
cheat), this is Bonferroni's correction and the family-wise error over all of them is at most alpha;
where they are added one by one after looking, the j-th pays alpha / j and the bound is
alpha * (1 + 1/2 + ... + 1/k), and every verdict names its neighbours.

Nothing here reads a clock or a file, and nothing needs scipy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prereg_moe import canonical, ledger
from prereg_moe.errors import Deviated, Problem, Tampered
from prereg_moe.frozen import Frozen
from prereg_moe.ledger import Seal
from prereg_moe.registration import Registration, block_alpha, level, needs_null
from prereg_moe.registration.schema import Claims, Looks

__all__ = [
    "Record",
    "Space",
    "claim_space",
    "freeze_body",
    "neighbours",
    "read",
    "space_of",
    "summary",
    "supersedes",
    "unreachable",
]

Space = dict[str, str]  # weights, corpus, measure


@dataclass(frozen=True, slots=True)
class Record:
    """What a verdict owns up to.

    Attributes:
        document: ``verdict.json``'s ``record``, without what has to be judged; empty where there is nothing to say.
        plans: number of a deviation -> the plan it amends the registration to.
        spaces: digest of a claim space -> the other registrations frozen on it.
        looks: numbers of the interim looks that were taken, rising.
    """

    document: Mapping[str, Any] = field(default_factory=dict)
    plans: Mapping[int, Registration] = field(default_factory=dict)
    spaces: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    looks: tuple[int, ...] = ()

    def level(self, frozen: Frozen, claims: Claims) -> float:
        """Return the level a block is judged at: its alpha, shared with its neighbours and spent by looks."""
        alpha = block_alpha(frozen.registration, claims) / self.share(frozen, claims)
        return alpha if claims.tier == "control" else level(frozen.registration, alpha, frozen.look, self.looks)

    def share(self, frozen: Frozen, claims: Claims) -> int:
        """Return by how many registrations the alpha of a block is shared, itself among them."""
        if claims.tier != "confirmatory" or not self.spaces:
            return 1
        return 1 + len(self.spaces.get(canonical.digest(space_of(frozen, claims)), ()))


def space_of(frozen: Frozen, claims: Claims) -> Space:
    """Return what a block of claims is about: digests of weights and texts, and the metric.

    Names of files, tasks and measures do not count, nor how many items are taken: none of them makes it
    another claim about another thing.
    """
    pins, measure = frozen.document["pins"], frozen.registration.measures[claims.measure]
    model = pins["models"][claims.model]
    weights = [digest for name, digest in model.items() if name.endswith(".safetensors")] or model.values()
    metric = getattr(measure, "metric", None) or canonical.digest(measure.model_dump(mode="json", exclude_none=True))
    return {
        "weights": canonical.digest(sorted(weights)),
        "corpus": canonical.digest(sorted(pins["corpora"].get(getattr(measure, "corpus", ""), {}).values())),
        "measure": metric,
    }


def claim_space(frozen: Frozen) -> list[Space]:
    """Return what the confirmatory claims are about, each space once, in the order of the claims."""
    spaces = [space_of(frozen, claims) for claims in frozen.registration.claims if claims.tier == "confirmatory"]
    return [space for n, space in enumerate(spaces) if space not in spaces[:n]]


def freeze_body(frozen: Frozen) -> dict[str, Any]:
    """Return what the seal of a freeze says."""
    return {"digest": frozen.digest, "claim_space": claim_space(frozen)}


def supersedes(seals: Iterable[Seal], id_: str) -> dict[str, Any] | None:
    """Return what the registration's next freeze supersedes, None where nothing was amended."""
    amendments = _own(seals, id_, "amend")
    if not amendments:
        return None
    body = amendments[-1].body
    return {"number": body["number"], "registration": body["superseded"], "reason": body["reason"]}


def neighbours(
    seals: Iterable[Seal], id_: str, own: Iterable[Space], told: Mapping[str, list[Space]] | None = None
) -> dict[str, tuple[str, ...]]:
    """Return digest of a claim space -> other registrations frozen on it, for the spaces that have any.

    Args:
        seals: the ledger.
        id_: the registration whose neighbours they are.
        own: its claim space.
        told: id -> claim space of registrations whose seal does not say it. One that is told nowhere
            counts on every space.
    """
    theirs: dict[str, set[str] | None] = {}
    for seal in seals:
        if seal.kind == "freeze" and seal.registration != id_:
            said = seal.body.get("claim_space", (told or {}).get(seal.registration))
            theirs[seal.registration] = None if said is None else set(map(canonical.digest, said))
    found = {
        key: tuple(other for other, keys in sorted(theirs.items()) if keys is None or key in keys)
        for key in map(canonical.digest, own)
    }
    return {key: ids for key, ids in found.items() if ids}


def unreachable(frozen: Frozen, shared_by: int) -> list[str]:
    """Return, block by block, where the null draws cannot give a p below the alpha that so many registrations share."""
    registration, null = frozen.registration, frozen.registration.controls.null
    return [
        f"{claims.id}: {null.draws} null draws give no p below {1 / (null.draws + 1):.3g}, and the shared level is "
        f"{block_alpha(registration, claims) / shared_by:.3g}: it cannot be confirmed"
        for claims in registration.claims
        if null is not None
        and claims.tier == "confirmatory"
        and needs_null(registration, claims)
        and registration.rules[claims.rule].kind != "expression"
        and 1 / (null.draws + 1) > block_alpha(registration, claims) / shared_by
    ]


def read(
    seals: Iterable[Seal],
    frozen: Frozen,
    *,
    plans: Mapping[int, Registration] | None = None,
    told: Mapping[str, list[Space]] | None = None,
) -> Record:
    """Return the record of a study in a ledger.

    Args:
        seals: the ledger, up to the seal of the verdict that is judged.
        frozen: the frozen registration.
        plans: number of a deviation -> its amended plan.
        told: as for :func:`neighbours`.

    Raises:
        Tampered: a seal says something else than its kind says.
    """
    seals, id_ = tuple(seals), frozen.registration.id
    spaces = neighbours(seals, id_, claim_space(frozen), told)
    try:
        document: dict[str, Any] = {
            "amendments": [
                {"time": seal.time, **{name: seal.body[name] for name in ("number", "reason", "superseded")}}
                for seal in _own(seals, id_, "amend")
            ],
            "claim_space": _spaces(seals, frozen, spaces),
            "deviations": list(_deviations(seals, id_)),
            "looks": [
                {"time": seal.time, "look": seal.body["look"], "at": _at(frozen, seal.body["look"])}
                for seal in _own(seals, id_, "look")
            ],
            "starts": _starts(seals, id_),
        }
    except KeyError as error:
        raise Tampered(Problem("LEDGER.jsonl", f"a seal of {id_} does not say its {error.args[0]}")) from error
    if frozen.look is not None:
        document["sees"] = [_at(frozen, frozen.look)]
    looks = tuple(seal.body["look"] for seal in _own(seals, id_, "look"))
    return Record({part: said for part, said in document.items() if said}, plans or {}, spaces, looks)


def summary(document: Mapping[str, Any]) -> list[str]:
    """Return a verdict document's ``record`` in a sentence a part, for a list of findings."""
    lines = [f"amended before a run began: {said['reason']}" for said in document.get("amendments", [])]
    lines += [
        f"deviation {said['number']} ({said['type']}, {said['timing']}, recorded behind {said['recorded_behind']}): "
        f"{said['reason']}"
        for said in document.get("deviations", [])
    ]
    for space in document.get("claim_space", []):
        others = ", ".join(f"{other['id']} ({other['stage']})" for other in space["registrations"])
        lines.append(f"alpha of {', '.join(space['claims'])} is shared by {space['shared_by']}; the others: {others}")
    lines += [f"look {said['look']} at {said['at']:.0%} of the items" for said in document.get("looks", [])]
    if starts := document.get("starts"):
        lines.append(f"{len(starts)} starts; missing at each: {', '.join(str(start['missing']) for start in starts)}")
    return lines


def _own(seals: Iterable[Seal], id_: str, kind: str) -> list[Seal]:
    return [seal for seal in seals if seal.registration == id_ and seal.kind == kind]


def _at(frozen: Frozen, look: Any) -> float:
    """Return the share of items a look sees.

    Raises:
        Deviated: no such look is registered.
    """
    stopping = frozen.registration.stopping
    if not isinstance(stopping, Looks) or not isinstance(look, int) or not 1 <= look <= len(stopping.at):
        raise Deviated(Problem("LEDGER.jsonl", f"look {look} of {frozen.registration.id} is not registered"))
    return stopping.at[look - 1]


def _starts(seals: tuple[Seal, ...], id_: str) -> list[dict[str, Any]]:
    """Return when runs were started and what was missing then; nothing where the first went to the end."""
    starts = [
        {"time": seal.time, "missing": seal.body.get("missing"), "shard": seal.body.get("shard")}
        for seal in _own(seals, id_, "start")
    ]
    return starts if len(starts) > 1 else []


def _deviations(seals: tuple[Seal, ...], id_: str) -> Iterable[dict[str, Any]]:
    """Yield every deviation and the stage in which it was recorded, which the author's timing can be held against."""
    stage: str | None = None
    for seal in seals:
        if seal.registration != id_:
            continue
        if seal.kind == "deviation":
            said = {name: seal.body[name] for name in ("number", "type", "timing", "reason", "impact", "plan")}
            yield {"time": seal.time, "recorded_behind": stage, **said}
        stage = ledger.stage_behind(seal.kind, stage)


def _spaces(seals: tuple[Seal, ...], frozen: Frozen, spaces: Mapping[str, tuple[str, ...]]) -> list[dict[str, Any]]:
    shared = []
    for space in claim_space(frozen):
        ids = spaces.get(canonical.digest(space))
        if ids is None:
            continue
        blocks = [
            claims.id
            for claims in frozen.registration.claims
            if claims.tier == "confirmatory" and space_of(frozen, claims) == space
        ]
        others = [
            {
                "id": id_,
                "registration": _own(seals, id_, "freeze")[-1].body.get("digest"),
                "stage": ledger.stage(seals, id_),
            }
            for id_ in ids
        ]
        shared.append({**space, "claims": blocks, "shared_by": 1 + len(ids), "registrations": others})
    return shared
