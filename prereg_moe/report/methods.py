"""The methods paragraph: sentences written from the registration, each with the works it rests on.

Sentences are data, so that every format cites in its own way; the words follow from what is
registered, and a method that was not used is not mentioned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["REFERENCES", "Reference", "Sentence", "write"]


@dataclass(frozen=True, slots=True)
class Reference:
    """A cited work.

    Attributes:
        key: its BibTeX key.
        kind: its BibTeX entry type.
        fields: its BibTeX fields, authors as ``Last, First and Last, First``.
    """

    key: str
    kind: str
    fields: Mapping[str, str]

    @property
    def text(self) -> str:
        """The reference as a line of a bibliography."""
        names = [name.partition(",")[0] for name in self.fields["author"].split(" and ")]
        authors = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} & {names[-1]}"
        authors = authors.replace(" & others", " et al.")
        title = self.fields["title"] + ("" if self.fields["title"].endswith("?") else ".")
        where = next((self.fields[key] for key in ("journal", "publisher", "howpublished") if key in self.fields), "")
        volume = f" {self.fields['volume']}" if "volume" in self.fields else ""
        pages = f":{self.fields['pages'].replace('--', '–')}" if "pages" in self.fields else ""
        return f"{authors} ({self.fields['year']}). {title} {where}{volume}{pages}."


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of the methods paragraph and the keys of the works it rests on."""

    text: str
    cites: tuple[str, ...] = ()


REFERENCES = {
    key: Reference(f"prereg-{key}", kind, fields)
    for key, kind, fields in (
        (
            "lm-eval",
            "misc",
            {
                "author": "Gao, Leo and others",
                "title": "The Language Model Evaluation Harness",
                "year": "2024",
                "howpublished": "Zenodo, doi:10.5281/zenodo.12608602",
            },
        ),
        (
            "salomone",
            "misc",
            {
                "author": "Salomone and Gandhi and Asaria",
                "title": "How Modular Is a Frontier Mixture-of-Experts?",
                "year": "2026",
                "howpublished": "arXiv:2606.25092",
            },
        ),
        (
            "berger",
            "article",
            {
                "author": "Berger, Roger L.",
                "title": "Multiparameter hypothesis testing and acceptance sampling",
                "journal": "Technometrics",
                "volume": "24",
                "pages": "295--300",
                "year": "1982",
            },
        ),
        (
            "phipson",
            "article",
            {
                "author": "Phipson, Belinda and Smyth, Gordon K.",
                "title": "Permutation P-values should never be zero: calculating exact P-values when permutations are"
                " randomly drawn",
                "journal": "Statistical Applications in Genetics and Molecular Biology",
                "volume": "9",
                "pages": "Article 39",
                "year": "2010",
            },
        ),
        (
            "westfall",
            "book",
            {
                "author": "Westfall, Peter H. and Young, S. Stanley",
                "title": "Resampling-Based Multiple Testing",
                "publisher": "Wiley",
                "year": "1993",
            },
        ),
        (
            "romano",
            "article",
            {
                "author": "Romano, Joseph P. and Wolf, Michael",
                "title": "Exact and approximate stepdown methods for multiple hypothesis testing",
                "journal": "Journal of the American Statistical Association",
                "volume": "100",
                "pages": "94--108",
                "year": "2005",
            },
        ),
        (
            "holm",
            "article",
            {
                "author": "Holm, Sture",
                "title": "A simple sequentially rejective multiple test procedure",
                "journal": "Scandinavian Journal of Statistics",
                "volume": "6",
                "pages": "65--70",
                "year": "1979",
            },
        ),
        (
            "efron-tibshirani",
            "book",
            {
                "author": "Efron, Bradley and Tibshirani, Robert J.",
                "title": "An Introduction to the Bootstrap",
                "publisher": "Chapman & Hall",
                "year": "1993",
            },
        ),
        (
            "efron",
            "article",
            {
                "author": "Efron, Bradley",
                "title": "Better bootstrap confidence intervals",
                "journal": "Journal of the American Statistical Association",
                "volume": "82",
                "pages": "171--185",
                "year": "1987",
            },
        ),
        (
            "hall",
            "book",
            {
                "author": "Hall, Peter",
                "title": "The Bootstrap and Edgeworth Expansion",
                "publisher": "Springer",
                "year": "1992",
            },
        ),
        (
            "schuirmann",
            "article",
            {
                "author": "Schuirmann, Donald J.",
                "title": "A comparison of the two one-sided tests procedure and the power approach for assessing the"
                " equivalence of average bioavailability",
                "journal": "Journal of Pharmacokinetics and Biopharmaceutics",
                "volume": "15",
                "pages": "657--680",
                "year": "1987",
            },
        ),
        (
            "benjamini-heller",
            "article",
            {
                "author": "Benjamini, Yoav and Heller, Ruth",
                "title": "Screening for partial conjunction hypotheses",
                "journal": "Biometrics",
                "volume": "64",
                "pages": "1215--1222",
                "year": "2008",
            },
        ),
        (
            "simonsohn",
            "article",
            {
                "author": "Simonsohn, Uri and Simmons, Joseph P. and Nelson, Leif D.",
                "title": "Specification curve analysis",
                "journal": "Nature Human Behaviour",
                "volume": "4",
                "pages": "1208--1214",
                "year": "2020",
            },
        ),
    )
}
_INTERVALS = {
    "bootstrap_t": ("bootstrap-t", ("efron-tibshirani", "hall")),
    "percentile": ("percentile bootstrap", ("efron-tibshirani",)),
    "basic": ("basic bootstrap", ("efron-tibshirani",)),
    "bca": ("bias-corrected and accelerated bootstrap", ("efron",)),
    "hall_t": ("skewness-corrected t", ("hall",)),
}


def write(document: Mapping[str, Any], study: Mapping[str, Any]) -> list[Sentence]:
    """Return the methods paragraph of a verdict document.

    Args:
        document: the verdict document.
        study: its registration with every default expanded.
    """
    return list(_sentences(document, study))


def _sentences(document: Mapping[str, Any], study: Mapping[str, Any]) -> Iterator[Sentence]:
    kinds = {study["rules"][claims["rule"]]["kind"] for claims in study["claims"]}
    yield Sentence(
        "The study was registered before it was run: hypotheses, models, items, expert families, random expert sets,"
        f" rules and inference are in the frozen registration {document['registration']}."
    )
    yield from _measures(document, study)
    yield from _families(study)
    yield from _intervention(study)
    if kinds & {"modular", "selective"}:
        yield from _rule(kinds)
    if "noninferiority" in kinds:
        yield from _noninferiority(study)
    if "expression" in kinds:
        named = {study["rules"][claims["rule"]].get("confirm") for claims in study["claims"]}
        published = bool(named & {"paper_point", "paper_ci"})
        yield Sentence(
            "Rules given as an expression are evaluated on the estimates as they stand and control no error rate"
            + ("; the published point and interval rules are among them." if published else "."),
            ("salomone",) if published else (),
        )
    yield from _inference(study)
    if study["replication"]:
        yield Sentence(
            "Replication over blocks of claims is judged by partial conjunction of their family-wise adjusted p.",
            ("benjamini-heller",),
        )
    if document.get("multiverse"):
        yield Sentence(
            "The registered grid of other analyses is shown as specification curves and decides nothing.",
            ("simonsohn",),
        )
    yield from _controls(study)
    yield Sentence("Decisions are made on unrounded values.")


def _measures(document: Mapping[str, Any], study: Mapping[str, Any]) -> Iterator[Sentence]:
    version = document["environment"].get("packages", {}).get("lm-eval")
    named = [
        f"{name} ({measure['metric']} per {measure['per']}, corpus {measure['corpus']}, {measure['items']} items an"
        " axis)"
        for name, measure in study["measures"].items()
        if measure["kind"] == "task"
    ]
    if named:
        engine = f" {version}" if version else ""
        yield Sentence(
            f"{document['conditions']} conditions were scored item by item through lm-evaluation-harness{engine}"
            f" ({study['engine']['kind']} engine) on {len(study['axes'])} axes; measures: {'; '.join(named)}.",
            ("lm-eval",),
        )


def _families(study: Mapping[str, Any]) -> Iterator[Sentence]:
    for block in study["families"]:
        build = block["build"]
        axes = "every axis" if block["axes"] == "all" else f"the axes {', '.join(block['axes'])}"
        if build["kind"] == "top_lift":
            units = {"global_id": "expert ids", "per_layer": "experts in each layer", "cells": "(layer, expert) cells"}
            core = {
                "none": "none excluded",
                "ids": f"expert ids {', '.join(map(str, build['exclude']['ids']))} excluded",
                "shared_core": f"the shared core at {build['exclude']['at_least']:g} times the uniform share excluded",
            }[build["exclude"]["kind"]]
            source = study["atlas"]
            routing = f" in routing recorded on {source['items']} items an axis of corpus {source['corpus']}"
            yield Sentence(
                f"Families: for {axes}, the {build['size']} {units[build['unit']]} of highest lift"
                f"{routing if source else ''}, {core}.",
                ("salomone",) if build["unit"] == "global_id" else (),
            )
        else:
            yield Sentence(f"Families: for {axes}, cells written out in the registration.")


def _intervention(study: Mapping[str, Any]) -> Iterator[Sentence]:
    done, null = study["intervention"], study["controls"]["null"]
    gates = {
        "renorm": "before the softmax, so the gates of the others grow",
        "original": "from the selection only, with the gates of the others kept",
        None: "",
    }[done.get("gates")]
    yield Sentence(
        {
            "mask": f"A family is masked at the router: its experts are removed {gates}.",
            "zero": "A family is zeroed: its experts are selected as ever, with the gates they had, and contribute"
            " nothing; no token is routed to others and no gate is renormalised.",
            "keep_only": f"A family is kept alone: in the layers it names all other experts are removed at the router,"
            f" {gates}; a layer it does not name keeps all of its experts.",
        }[done["kind"]]
    )
    if null:
        match = (
            f" and, within a fraction of {null['tolerance']:g}, its share of its own axis's routing"
            if null["match"] == "mass"
            else ""
        )
        kept = ", kept in its place" if done["kind"] == "keep_only" else ""
        yield Sentence(
            f"Each family is compared with {null['draws']} random expert sets of its size{match}, drawn from all"
            f" experts {_by(null['seed'])}{kept}."
        )


def _by(seed: str) -> str:
    return "by a reviewer's nonce, sealed after the freeze" if seed == "challenge" else f"with seed {seed}"


def _rule(kinds: set[str]) -> Iterator[Sentence]:
    if "modular" in kinds:
        yield Sentence(
            "Modular rule: a claim's p is the largest of its parts (intersection-union), which are the family's place"
            " among the random sets, the same corrected over families (step-down max-T), the excess over the mean"
            " random set above the registered minimum effect, and selectivity.",
            ("berger", "phipson", "westfall"),
        )
    if "selective" in kinds:
        yield Sentence(
            "Selective rule: as the modular rule without random sets; the effect itself is compared with the registered"
            " minimum (Holm over families).",
            ("berger", "holm"),
        )
    yield Sentence(
        "Selectivity tests the effect on the own axis against κ times that on every other axis, by a studentised"
        " bootstrap with step-down max-T over families; an effect is refuted where two one-sided tests place it inside"
        " the minimum effect, or another axis is shown to be harmed beyond on-target / κ.",
        ("romano", "westfall", "schuirmann"),
    )


def _noninferiority(study: Mapping[str, Any]) -> Iterator[Sentence]:
    yield Sentence(
        "Non-inferiority rule: the mean harm to the family's own axis is tested against the registered margin,"
        " one-sided, by a studentised bootstrap and by a skewness-corrected t, of which the larger p counts (Holm over"
        " families); it is refuted where the mean is shown to lie above the margin.",
        ("schuirmann", "efron-tibshirani", "hall", "holm"),
    )
    rules = {claims["rule"] for claims in study["claims"]}
    if any(study["rules"][rule].get("better_than_random") for rule in rules):
        yield Sentence(
            "Where it is claimed to be less than that of random sets, the claim's p is the largest of this one, the"
            " family's place among the random sets and the same corrected over families (step-down max-T).",
            ("berger", "phipson", "westfall"),
        )


def _inference(study: Mapping[str, Any]) -> Iterator[Sentence]:
    inference = study["inference"]
    kind, cites = _INTERVALS[inference["interval"]["kind"]]
    units = sorted({measure.get("unit", "item") for measure in study["measures"].values()})
    yield Sentence(
        f"Family-wise alpha is {inference['alpha']:g}, divided by the number of confirmatory blocks."
        f" Intervals are {100 * inference['interval']['level']:.6g}% two-sided {kind}; the resampled unit is the"
        f" {' or '.join(units)}; {inference['resamples']} resamples ({inference['escalation']} where a p lies within"
        f" Monte-Carlo error of alpha), seed {inference['seed']}.",
        cites,
    )


def _controls(study: Mapping[str, Any]) -> Iterator[Sentence]:
    found = []
    for name in ("positive", "negative"):
        control = study["controls"][name]
        if control is not None:
            least, most = control["at_least"], control["at_most"]
            bound = f"at least {least}" if least is not None else f"at most {most}"
            found.append(f"the {name} control ({control['claims']}) must have {bound} claims confirmed")
    if found:
        yield Sentence(f"Before any other claim counts, {' and '.join(found)}.")
