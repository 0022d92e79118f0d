"""Order in git: every order of commits, told from real repositories, and the graph compared with git's own answer."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import ID, World

from prereg_moe import canonical
from prereg_moe.findings import Finding, NotDue, find
from prereg_moe.trust.ancestry import History, look, order

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
FREEZE = [f"registrations/{ID}", "registrations/LEDGER.jsonl"]
EVIDENCE = [f"reports/{ID}"]


def git(root: Path, *arguments: str) -> str:
    options = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main", "-c", "gc.auto=0")
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(
        ["git", "-C", str(root), *options, *arguments], capture_output=True, text=True, env=environment, check=True
    )
    return done.stdout.strip()


def commit(root: Path, *paths: str, message: str = "x") -> str:
    git(root, "add", "-A", "-f", "--", *paths)
    git(root, "commit", "-q", "--allow-empty", "-m", message)
    return git(root, "rev-parse", "HEAD")


def found(world: World) -> Finding:
    return find(2, "order in git", lambda: look(world.root, ID, world.frozen))


@pytest.fixture
def started(computed: World) -> World:
    """A computed world in a new repository, nothing committed."""
    git(computed.root, "init", "-q")
    git(computed.root, "commit", "-q", "--allow-empty", "-m", "root")
    return computed


def test_the_honest_order_holds_and_says_that_nobody_else_has_it(started: World) -> None:
    freeze = commit(started.root, *FREEZE)
    commit(started.root, *EVIDENCE)
    finding = found(started)
    assert finding.outcome == "holds", finding
    assert freeze[:12] in finding.details[0]
    assert "not pushed" in finding.details[1]


def test_a_remote_branch_is_said(started: World, tmp_path: Path) -> None:
    commit(started.root, *FREEZE)
    commit(started.root, *EVIDENCE)
    git(tmp_path, "init", "-q", "--bare", "elsewhere.git")
    git(started.root, "remote", "add", "origin", str(tmp_path / "elsewhere.git"))
    git(started.root, "push", "-q", "-u", "origin", "HEAD:main")
    assert "pushed: the registration is in origin/main" in found(started).details
    git(started.root, "commit", "-q", "--amend", "--allow-empty", "-m", "rewritten")
    assert any("have parted" in detail for detail in found(started).details)


def test_evidence_first_is_a_deviation(started: World) -> None:
    early = commit(started.root, *EVIDENCE)
    commit(started.root, *FREEZE)
    finding = found(started)
    assert (finding.outcome, finding.exit_code) == ("fails", 5)
    assert early[:12] in finding.details[0]
    assert "reports/world/" in finding.details[0]


def test_evidence_first_and_removed_again_is_found(started: World) -> None:
    early = commit(started.root, *EVIDENCE)
    shutil.move(started.registry.reports(ID), started.root / "kept")
    commit(started.root, *EVIDENCE)
    commit(started.root, *FREEZE)
    shutil.move(started.root / "kept", started.registry.reports(ID))
    commit(started.root, *EVIDENCE)
    finding = found(started)
    assert (finding.outcome, finding.exit_code) == ("fails", 5)
    assert early[:12] in finding.details[0]


def test_other_evidence_of_the_same_id_first_is_found(started: World) -> None:
    """A pilot whose files look otherwise, committed where the evidence lies, and overwritten by the real one."""
    real = started.evidence[0].read_bytes()
    started.evidence[0].write_bytes(b"{}")
    commit(started.root, str(started.evidence[0].relative_to(started.root)))
    commit(started.root, *FREEZE)
    started.evidence[0].write_bytes(real)
    commit(started.root, *EVIDENCE)
    assert found(started).exit_code == 5


def test_dates_do_not_count(started: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"):
        monkeypatch.setenv(name, "2030-01-01T00:00:00Z")
    commit(started.root, *EVIDENCE)
    for name in ("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"):
        monkeypatch.setenv(name, "2001-01-01T00:00:00Z")
    commit(started.root, *FREEZE)
    assert found(started).exit_code == 5


def test_a_squash_shows_no_order(started: World) -> None:
    both = commit(started.root, *FREEZE, *EVIDENCE)
    finding = found(started)
    assert (finding.outcome, finding.exit_code) == ("unchecked", 0)
    assert both[:12] in finding.details[0]
    assert "at once" in finding.details[0]


def test_a_rebase_keeps_the_order(started: World) -> None:
    root = started.root
    git(root, "branch", "other")
    commit(root, *FREEZE)
    commit(root, *EVIDENCE)
    git(root, "branch", "-q", "old")
    git(root, "checkout", "-q", "-b", "work", "other")
    git(root, "commit", "-q", "--allow-empty", "-m", "elsewhere")
    git(root, "cherry-pick", "other..old")
    assert found(started).outcome == "holds"


def test_evidence_on_a_branch_without_the_freeze_is_found_after_the_merge(started: World) -> None:
    root = started.root
    git(root, "checkout", "-q", "-b", "side")
    early = commit(root, *EVIDENCE)
    git(root, "checkout", "-q", "-f", "-b", "main2", "HEAD~1")
    shutil.copytree(root / "registrations", root / "kept", dirs_exist_ok=True)
    commit(root, *FREEZE)
    git(root, "merge", "-q", "--no-ff", "-m", "join", "side")
    finding = found(started)
    assert finding.exit_code == 5
    assert early[:12] in finding.details[0]


def test_evidence_on_a_branch_behind_the_freeze_and_merged_holds(started: World) -> None:
    root = started.root
    commit(root, *FREEZE)
    git(root, "checkout", "-q", "-b", "side")
    commit(root, *EVIDENCE)
    git(root, "checkout", "-q", "-b", "main2", "HEAD~1")
    git(root, "commit", "-q", "--allow-empty", "-m", "meanwhile")
    git(root, "merge", "-q", "--no-ff", "-m", "join", "side")
    assert found(started).outcome == "holds"


def test_a_shallow_clone_cannot_tell(started: World, tmp_path: Path) -> None:
    commit(started.root, *EVIDENCE)
    commit(started.root, *FREEZE)
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{started.root}", "shallow")
    finding = found(World(tmp_path / "shallow"))
    assert finding.outcome == "unchecked"
    assert "shallow" in finding.details[0]


def test_replaced_and_grafted_histories_are_not_believed(started: World) -> None:
    root = started.root
    early = commit(root, *EVIDENCE)
    freeze = commit(root, *FREEZE)
    tree = git(root, "rev-parse", f"{early}^{{tree}}")
    forged = git(root, "commit-tree", tree, "-p", git(root, "commit-tree", f"{freeze}^{{tree}}", "-m", "y"), "-m", "x")
    git(root, "replace", early, forged)
    assert found(started).exit_code == 5
    (root / ".git/info").mkdir(exist_ok=True)
    (root / ".git/info/grafts").write_text(f"{early} {freeze}\n")
    assert found(started).exit_code == 5


def test_a_hostile_configuration_runs_nothing(started: World, tmp_path: Path) -> None:
    commit(started.root, *FREEZE)
    commit(started.root, *EVIDENCE)
    trap = tmp_path / "trap"
    for key in ("core.fsmonitor", "core.pager", "diff.external", "gpg.program", "core.sshCommand", "core.editor"):
        git(started.root, "config", key, f"touch {trap};")
    git(started.root, "config", "log.showSignature", "true")
    (started.root / ".gitattributes").write_text("* diff=x filter=x\n")
    git(started.root, "config", "diff.x.textconv", f"touch {trap};")
    git(started.root, "config", "filter.x.clean", f"touch {trap};")
    assert found(started).outcome == "holds"
    assert not trap.exists()


def test_a_folder_without_a_repository_says_so(computed: World) -> None:
    finding = found(computed)
    assert finding.outcome == "unchecked"
    assert "not in a git repository" in finding.details[0]


def test_without_git_it_says_so(computed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert found(computed).details == ("git is not installed",)


def test_an_empty_repository_and_an_uncommitted_study_show_nothing(computed: World) -> None:
    git(computed.root, "init", "-q")
    assert "in no commit" in found(computed).details[0]
    git(computed.root, "commit", "-q", "--allow-empty", "-m", "root")
    assert "in no commit" in found(computed).details[0]
    commit(computed.root, *FREEZE)
    assert "no evidence is committed" in found(computed).details[0]


def test_other_evidence_than_the_committed_shows_nothing(started: World) -> None:
    commit(started.root, *FREEZE)
    commit(started.root, *EVIDENCE)
    (started.registry.reports(ID) / "evidence.json").write_bytes(b"{}")
    assert "evidence.json as it lies here" in found(started).details[0]


def test_a_registry_below_the_top_of_the_repository(world_at: Callable[[str], World], tmp_path: Path) -> None:
    world = world_at("computed")
    inner = World(tmp_path / "repo" / "a b" / "ä")
    shutil.copytree(world.root, inner.root)
    git(tmp_path / "repo", "init", "-q")
    prefix = "a b/ä/"
    commit(tmp_path / "repo", *(prefix + path for path in FREEZE))
    commit(tmp_path / "repo", *(prefix + path for path in EVIDENCE))
    assert found(inner).outcome == "holds"


def test_an_earlier_study_of_the_id_counts_unless_foreknowledge_names_it(world_at: Callable[[str], World]) -> None:
    """Freeze, run, commit; then register again under the same id. Owning up to it is naming its digest."""
    for owns_up in (False, True):
        world = world_at("computed")
        root = world.root
        shutil.rmtree(root / ".git", ignore_errors=True)
        git(root, "init", "-q")
        commit(root, *FREEZE)
        commit(root, *EVIDENCE)
        first = canonical.digest_file(world.folder / "frozen.json")
        shutil.rmtree(world.registry.reports(ID))
        world.registry.ledger_path.unlink()
        words = f"The study {first} was run before." if owns_up else "Nothing."
        world.author(lambda document, words=words: document.update(foreknowledge=words))
        world.record()
        world.freeze()
        commit(root, *FREEZE, *EVIDENCE)
        world.run()
        commit(root, *EVIDENCE)
        finding = found(world)
        assert (finding.outcome == "holds") == owns_up, finding
        assert owns_up or finding.exit_code == 5


@given(st.data())
def test_the_graph_says_what_ancestry_means(data: st.DataObject) -> None:
    """On any graph: a commit is behind the freeze exactly when a walk over parents reaches a freeze."""
    size = data.draw(st.integers(1, 12))
    parents = {
        str(n): tuple(map(str, data.draw(st.lists(st.integers(0, n - 1), max_size=2, unique=True)) if n else ()))
        for n in range(size)
    }
    freezes = frozenset(data.draw(st.sets(st.sampled_from(sorted(parents)), max_size=3)))
    evidence = dict.fromkeys(data.draw(st.sets(st.sampled_from(sorted(parents)))), ("x",))

    def reaches(commit: str) -> bool:
        return any(parent in freezes or reaches(parent) for parent in parents[commit])

    seen = order(History(parents, {"blob": freezes}, evidence), "blob")
    for commit in evidence:
        expected = "together" if commit in freezes else "behind" if reaches(commit) else "outside"
        assert commit in getattr(seen, expected)
    assert len(seen.behind) + len(seen.together) + len(seen.outside) == len(evidence)


def test_a_hanging_git_ends(computed: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("prereg_moe.trust.ancestry._SECONDS", 0.2)
    with pytest.raises(NotDue, match="did not answer"):
        list(look(computed.root, ID, computed.frozen))
