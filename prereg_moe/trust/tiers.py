"""The tiers an audit prints one by one, each with what it proves and what it does not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from prereg_moe import canonical, ledger
from prereg_moe.errors import Deviated, Invalid, NotCheckable, Problem, Tampered
from prereg_moe.findings import Finding, NotDue, find
from prereg_moe.frozen import Frozen, challenged
from prereg_moe.registry import Registry, read_bytes
from prereg_moe.trust import ancestry
from prereg_moe.trust.challenges import CHALLENGE, nonce_of, used_by
from prereg_moe.trust.keys import decode, fingerprint, opened, public_key
from prereg_moe.trust.known import Known
from prereg_moe.trust.sealing import SIGNATURE
from prereg_moe.trust.stamps import Stamp, read_stamp, unverified

__all__ = ["TIERS", "Tier", "look"]

# tier -> what it proves where it holds, and what it does not
TIERS = {
    "consistency": (
        "the record agrees with itself",
        "that it was not made up as a whole; by whom, when and after what it was made",
    ),
    "order in git": (
        "in this history the registration was committed before any evidence",
        "that nothing was run and left uncommitted; a history nobody else holds can be rewritten",
    ),
    "signature": (
        "the holder of this key stands by this registration, and by the record as it was then",
        "whose key it is, which you must know from elsewhere; when it was signed",
    ),
    "time stamp": (
        "the record existed by then, by the clock of an authority you know",
        "when it was begun, or that it is the only one; an authority of the author's own proves nothing",
    ),
    "challenge": (
        "no score of a random expert set is older than the reviewer's nonce",
        "that the families' own scores are not older; that the reviewer is a stranger, and gave one nonce only",
    ),
}


_FAULTS = (Invalid, Tampered, NotCheckable, Deviated)


@dataclass(frozen=True, slots=True)
class Tier:
    """What one tier adds.

    Attributes:
        finding: holds, fails or unchecked, and why.
        proves: what is proven where it holds.
        does_not_prove: what is not, even then.
    """

    finding: Finding
    proves: str
    does_not_prove: str


def look(
    registry: Registry,
    id_: str,
    *,
    seals: tuple[ledger.Seal, ...],
    findings: Sequence[Finding],
    read: Callable[[], Frozen],
    known: Known,
    names: Collection[str],
) -> tuple[Tier, ...]:
    """Return the tiers of a registration that are asked for, in order; nothing is written, nothing raises.

    Args:
        seals: the ledger as far as it can be read.
        findings: what the steps of the audit found.
        read: returns the frozen registration.
        known: the keys and authorities the reader knows.
        names: the tiers to look at.
    """
    case = _Case(registry, id_, seals, findings, read, known)
    looks = (case.consistency, case.order, case.signature, case.stamp, case.challenge)
    return tuple(
        Tier(find(number, name, _with_library(one)), *TIERS[name])
        for number, (name, one) in enumerate(zip(TIERS, looks, strict=True), 1)
        if name in names
    )


def _with_library(one: Callable[[], Iterator[str]]) -> Callable[[], Iterator[str]]:
    def looked() -> Iterator[str]:
        try:
            yield from one()
        except ModuleNotFoundError as error:
            todo = "install it: pip install 'prereg-moe[trust]'"
            raise NotDue(f"not checked: the package {error.name} is not installed; {todo}") from error

    return looked


@dataclass(frozen=True, slots=True)
class _Case:
    registry: Registry
    id: str
    seals: tuple[ledger.Seal, ...]
    findings: Sequence[Finding]
    read: Callable[[], Frozen]
    known: Known

    def consistency(self) -> Iterator[str]:
        failing = [finding for finding in self.findings if finding.outcome == "fails"]
        if failing:
            where = f"step{'s' if len(failing) > 1 else ''} {', '.join(str(finding.step) for finding in failing)}"
            fault = next((one for one in _FAULTS if one.exit_code == failing[0].exit_code), Tampered)
            raise fault(f"{where}: see there")
        open_ = [f"{finding.step} ({finding.name})" for finding in self.findings if finding.outcome == "unchecked"]
        yield f"{len(self.findings) - len(open_)} steps hold" + (f"; unchecked: {', '.join(open_)}" if open_ else "")

    def order(self) -> Iterator[str]:
        yield from ancestry.look(self.registry.root, self.id, self._frozen())

    def signature(self) -> Iterator[str]:
        frozen, lines = self._frozen(), self._lines()
        files = self._added("signature-")
        if not files:
            raise NotDue(f"nobody signed it (`prereg-moe trust sign {self.id} --key KEY`)")
        found: list[str] = []
        strangers: list[Problem] = []
        for name, data in files:
            statement, who = opened(data, name, SIGNATURE)
            head = statement.predicate.get("head")
            if statement.subject != frozen.digest:
                raise Tampered(Problem(name, "signs another registration", "it was put here from elsewhere"))
            if head not in lines:
                raise Tampered(Problem(name, f"signs a ledger with the head {head}", "this ledger was rewritten since"))
            if self.known.keys and who not in self.known.keys:
                strangers.append(Problem(name, f"is signed by {who}", "that is no key you gave"))
                continue
            found.append(f"{who} signed {self._as_of(lines[head])}{self._whose(who)}")
        if strangers and not found:
            raise Tampered(strangers)
        yield from found
        yield from (f"{problem}; left out" for problem in strangers)

    def stamp(self) -> Iterator[str]:
        frozen, lines = self._frozen(), self._lines()
        freeze = min(n for n, seal in enumerate(self.seals, 1) if seal.body.get("digest") == frozen.digest)
        stamps = self._stamps()
        if not stamps:
            raise NotDue(f"nobody stamped it (`prereg-moe trust timestamp {self.id} --request FILE`)")
        for name, _, stamp in stamps:
            if lines.get(stamp.digest, 0) < freeze:
                raise Tampered(Problem(name, "stamps another ledger than this one", "it was put here from elsewhere"))
        said = [self._stamped(stamp, lines[stamp.digest]) for _, _, stamp in stamps]
        if not self.known.authorities:
            unknown = "no authority is known (--known CERTIFICATE): as it stands anybody could have made this stamp"
            raise NotDue(*said, f"{unknown}, the author too")
        reasons = [unverified(data, stamp.digest, self.known.authorities) for _, data, stamp in stamps]
        if None not in reasons:
            raise Tampered(
                [
                    Problem(name, f"is signed by no authority you gave ({reason})")
                    for (name, _, _), reason in zip(stamps, reasons, strict=True)
                ]
            )
        for words, reason in zip(said, reasons, strict=True):
            yield f"{words}: " + ("an authority you know" if reason is None else "none you gave, so it does not count")

    def _stamps(self) -> list[tuple[str, bytes, Stamp]]:
        try:
            return [(name, data, read_stamp(data, name)) for name, data in self._added("timestamp-")]
        except Invalid as error:  # it was an answer when it was kept
            raise Tampered(error.problems) from error

    def challenge(self) -> Iterator[str]:
        frozen = self._frozen()
        if getattr(frozen.registration.controls, "null", None) is None:
            raise NotDue("none could be registered: the study draws no random sets")
        if not challenged(frozen.registration):
            raise NotDue("none is registered: the null draws follow from a seed its author chose")
        seal = next((one for one in self.seals if (one.kind, one.registration) == ("challenge", self.id)), None)
        if seal is None:
            raise NotDue(f"no nonce is sealed yet (`prereg-moe trust challenge {self.id} --nonce FILE`)")
        [(name, data)] = self._added("challenge.json")
        statement, who = opened(data, name, CHALLENGE)
        if statement.subject != frozen.digest:
            raise Tampered(Problem(name, "is for another registration", "it was put here from elsewhere"))
        spent = canonical.digest(nonce_of(statement, name))
        if seal.body.get("nonce") != spent:
            raise Tampered(Problem(name, "holds another nonce than its seal says", "restore it"))
        if others := [id_ for id_ in used_by(self.seals, spent) if id_ != self.id]:
            todo = "its draws could be known before the freeze"
            raise Deviated(Problem(name, f"its nonce was used for {', '.join(others)} as well", todo))
        if self.known.keys and who not in self.known.keys:
            raise Tampered(Problem(name, f"is signed by {who}", "that is no key you gave"))
        if who in self._authors():
            raise NotDue(f"{who} signed the registration as well: a challenge by its author proves nothing")
        yield f"{who} gave the nonce, by their word at {statement.predicate.get('time')}{self._whose(who)}"

    def _frozen(self) -> Frozen:
        frozen = self.read()
        freezes = [seal for seal in self.seals if seal.registration == self.id and seal.kind == "freeze"]
        if not freezes or freezes[-1].body.get("digest") != frozen.digest:
            raise Tampered(Problem("frozen.json", "is not the file that was sealed", "restore it"))
        return frozen

    def _lines(self) -> dict[str, int]:
        return {seal.digest: number for number, seal in enumerate(self.seals, 1)}

    def _added(self, stem: str) -> list[tuple[str, bytes]]:
        """Return name and bytes of the sealed files of the trust folder that begin so, in the order of their seals."""
        prefix = f"registrations/{self.id}/trust/{stem}"
        files = []
        for name, digest in ledger.sealed_files(self.seals, self.id).items():
            if name.startswith(prefix):
                data = read_bytes(self.registry.path(name))
                if canonical.digest(data) != digest:
                    raise Tampered(Problem(name, "is not the file that was sealed", "restore it"))
                files.append((name, data))
        return files

    def _authors(self) -> set[str]:
        statements = [decode(data, name, SIGNATURE) for name, data in self._added("signature-")]
        return {fingerprint(public_key(one.predicate["key"], "signature")) for one in statements}

    def _as_of(self, line: int) -> str:
        kinds = [seal.kind for seal in self.seals[:line] if seal.registration == self.id]
        return f"the ledger up to line {line} ({', '.join(dict.fromkeys(kinds))})"

    def _stamped(self, stamp: Stamp, line: int) -> str:
        return f"{stamp.time:%Y-%m-%dT%H:%M:%SZ} {stamp.authority} stamped {self._as_of(line)}"

    def _whose(self, who: str) -> str:
        return ", a key you know" if who in self.known.keys else "; compare the key with one you know"
