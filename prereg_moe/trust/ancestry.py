"""Order in git: the commit that brought the frozen registration lies behind every commit that brought evidence.

Dates say nothing, anybody can write them. A commit names its parents by digest, so what is an ancestor
was there first, and a history cannot be changed without changing every commit behind it. All versions
of every evidence file in all branches count, not only the last one: evidence that was there before
the registration, and was then removed, is found. Replaced objects, grafts and cached graphs are not
believed, and nothing is fetched.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prereg_moe import canonical
from prereg_moe.errors import Deviated, Problem
from prereg_moe.findings import NotDue
from prereg_moe.frozen import Frozen

__all__ = ["History", "Order", "look", "order"]

_SECONDS = 60
_SAFE = ("core.fsmonitor=false", "core.hooksPath=/dev/null", "core.commitGraph=false", "core.quotePath=true")
_QUIET = {
    "GIT_ALLOW_PROTOCOL": "none",  # a partial clone would fetch what it lacks
    "GIT_GRAFT_FILE": os.devnull,
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}


@dataclass(frozen=True, slots=True)
class History:
    """The commits that touch a study.

    Attributes:
        parents: commit -> the nearest commits behind it that are in this table, newest first.
        frozen: blob -> the commits that brought it to frozen.json.
        evidence: commit -> the paths of the reports it brought or changed.
        blobs: every blob that was ever brought below the reports.
    """

    parents: Mapping[str, tuple[str, ...]]
    frozen: Mapping[str, frozenset[str]] = field(default_factory=dict)
    evidence: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    blobs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Order:
    """Where the commits that brought evidence stand.

    Attributes:
        behind: those behind the freeze.
        together: those that brought the frozen registration as well.
        disclosed: those behind an earlier freeze the registration owns up to.
        outside: all others: they have evidence and no freeze behind them.
    """

    behind: tuple[str, ...]
    together: tuple[str, ...]
    disclosed: tuple[str, ...]
    outside: tuple[str, ...]


def order(history: History, blob: str, disclosed: Iterable[str] = ()) -> Order:
    """Return where the commits that brought evidence stand to those that brought the frozen registration.

    Args:
        blob: the frozen registration as git names it.
        disclosed: the same of earlier ones its foreknowledge names.
    """
    freezes = history.frozen.get(blob, frozenset())
    behind = _descendants(history.parents, freezes) - freezes
    owned = {commit for one in disclosed for commit in history.frozen.get(one, ())}
    owned = _descendants(history.parents, owned)
    places: dict[str, list[str]] = {"behind": [], "together": [], "disclosed": [], "outside": []}
    for commit in history.evidence:
        where = (
            "behind"
            if commit in behind
            else "together"
            if commit in freezes
            else "disclosed"
            if commit in owned
            else "outside"
        )
        places[where].append(commit)
    return Order(**{where: tuple(commits) for where, commits in places.items()})


def look(root: Path, id_: str, frozen: Frozen) -> Iterator[str]:
    """Yield what git shows of a study's order.

    Raises:
        NotDue: there is no such history here, it is cut off, or it shows no order.
        Deviated: evidence was committed without the freeze behind it.
    """
    git = _Git(root)
    if git.ask("rev-parse", "--is-shallow-repository") == "true":
        raise NotDue("the clone is shallow, its history is cut off: `git fetch --unshallow`, then audit again")
    path = f"registrations/{id_}/frozen.json"
    blob = git.blob(root / path)
    history = git.history(path, f"reports/{id_}/")
    freezes = history.frozen.get(blob)
    if not freezes:
        raise NotDue("frozen.json as it lies here is in no commit")
    if not history.evidence:
        raise NotDue("no evidence is committed, so git shows no order yet", *git.standing(freezes))
    manifest = root / "reports" / id_ / "evidence.json"
    if manifest.exists() and git.blob(manifest) not in history.blobs:
        raise NotDue("evidence.json as it lies here is in no commit, so git shows no order of it")
    earlier = {one for one in history.frozen if one != blob and git.digest(one) in frozen.registration.foreknowledge}
    found = order(history, blob, earlier)
    if found.outside:
        first = found.outside[-1]
        file = history.evidence[first][0]
        what = f"brought {file} without the frozen registration behind it ({len(found.outside)} such commits)"
        todo = "an earlier study of this id is owned up to by its digest in foreknowledge"
        raise Deviated(Problem(f"commit {first[:12]}", what, todo))
    if found.together:
        raise NotDue(f"commit {found.together[-1][:12]} brought evidence and the registration at once: no order shows")
    yield f"{len(found.behind)} commits with evidence, all behind {', '.join(sorted(c[:12] for c in freezes))}"
    if found.disclosed:
        yield f"{len(found.disclosed)} more with evidence of an earlier study, which its foreknowledge names"
    yield from git.standing(freezes)


def _descendants(parents: Mapping[str, tuple[str, ...]], roots: Iterable[str]) -> set[str]:
    children: dict[str, list[str]] = {}
    for commit, behind in parents.items():
        for parent in behind:
            children.setdefault(parent, []).append(commit)
    found, todo = set(roots), list(roots)
    while todo:
        for child in children.get(todo.pop(), ()):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


@dataclass(frozen=True, slots=True)
class _Git:
    """The questions asked of git, in a folder of its working tree."""

    root: Path

    def ask(self, *arguments: str, given: str = "", fails: bool = False) -> str:
        """Return what git answers; where ``fails`` is allowed, nothing for an error."""
        options = [part for one in _SAFE for part in ("-c", one)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | _QUIET
        try:
            done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
                ["git", "-C", str(self.root), *options, *arguments],  # noqa: S607 - the git of this machine
                input=given.encode(),
                capture_output=True,
                env=environment,
                timeout=_SECONDS,
                check=False,
            )
        except FileNotFoundError as error:
            raise NotDue("git is not installed") from error
        except subprocess.TimeoutExpired as error:
            raise NotDue(f"git did not answer within {_SECONDS} seconds") from error
        if done.returncode != 0 and not fails:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no answer"]
            if "not a git repository" in said[0]:
                raise NotDue("not in a git repository: no order is shown but the ledger's own")
            raise NotDue(f"git says: {said[0]}")
        return done.stdout.decode("utf-8", "replace").strip("\n") if done.returncode == 0 else ""

    def blob(self, path: Path) -> str:
        """Return a file as git names its bytes."""
        return self.ask("hash-object", "--no-filters", "--", str(path.absolute()))

    def digest(self, blob: str) -> str:
        """Return the digest of a blob's bytes."""
        return canonical.digest(self.ask("cat-file", "blob", blob).encode())  # canonical JSON: one line of UTF-8

    def history(self, frozen: str, reports: str) -> History:
        """Return the commits of all branches that touch a frozen registration or its reports."""
        head = ["HEAD"] if self.ask("rev-parse", "-q", "--verify", "HEAD^{commit}", fails=True) else []
        paths = ["--", f":(literal){frozen}", f":(literal){reports}"]
        listed = self.ask("rev-list", "--all", *head, "--full-history", "--topo-order", "--parents", *paths)
        rows = [line.split() for line in listed.splitlines()]
        parents = {commit: tuple(behind) for commit, *behind in rows}
        commits = "".join(f"{commit}\n" for commit in parents)
        form = ("--stdin", "-r", "-c", "--root", "--no-renames", "--no-abbrev", "--relative")
        raw = self.ask("diff-tree", *form, *paths, given=commits)
        return _brought(parents, raw, frozen)

    def standing(self, freezes: Iterable[str]) -> Iterator[str]:
        """Yield who else holds the freeze, as far as this clone knows, and whether histories have parted."""
        contains = [part for commit in freezes for part in ("--contains", commit)]
        held = self.ask("for-each-ref", *contains, "--format=%(refname:short)", "refs/remotes").split()
        held = [name for name in held if not name.endswith("/HEAD") and "/" in name]
        if held:
            yield f"pushed: the registration is in {', '.join(held[:3])}"
        else:
            yield "not pushed as far as this clone knows: nobody else holds this history, so it can be rewritten"
        upstream = self.ask("rev-parse", "-q", "--verify", "@{upstream}", fails=True)
        ways = (f"HEAD..{upstream}", f"{upstream}..HEAD") if upstream else ()
        if ways and all(self.ask("rev-list", "--count", way) != "0" for way in ways):
            yield "this history and the pushed one have parted: one was rewritten, or they are not merged"


def _brought(parents: Mapping[str, tuple[str, ...]], raw: str, path: str) -> History:
    """Return the history in what `git diff-tree -c --raw` prints: a commit, then a line a file it changed.

    ``:<mode before> <mode> <blob before> <blob> <status>TAB<path>``; a merge has a colon, a mode and a
    blob more a parent, and shows only what is in none of its parents.
    """
    frozen: dict[str, set[str]] = {}
    evidence: dict[str, list[str]] = {}
    blobs: set[str] = set()
    commit = ""
    for line in raw.splitlines():
        if not line.startswith(":"):
            commit = line.strip()
            continue
        fields, _, name = line.partition("\t")
        blob = fields.split()[-2]
        if set(blob) == {"0"}:
            continue  # removed
        if name == path:
            frozen.setdefault(blob, set()).add(commit)
        else:
            evidence.setdefault(commit, []).append(name)
            blobs.add(blob)
    return History(
        parents,
        {blob: frozenset(commits) for blob, commits in frozen.items()},
        {commit: tuple(names) for commit, names in evidence.items()},
        frozenset(blobs),
    )
