"""The cheats of docs/threat-model.md against published pre-registration tools, in environments of their own.

    python tests/peers/integrity.py            # print the table
    python tests/peers/integrity.py --write    # put it into docs/threat-model.md

Every tool is installed from the package index into a virtual environment in a temporary folder. The cheats played are
those that need nothing but a tool's own files and commands: its honest record has to verify, then something is changed
as an author could change it, and the tool's own check is asked. A tool whose cheats are not written here is said so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "threat-model.md"
BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
PEERS = (
    "preregister",
    "prereg",
    "falsify",
    "falsify-inspect",
    "eval-conductor",
    "asexec",
    "falsification-ledger",
    "forward-qpop",
    "newlife",
    "nullbar",
    "sealedlab",
    "groundwork",
)
CHEATS = (
    "the bar is edited",
    "edited and sealed again",
    "the log's last entry is cut off",
    "several variants, one kept",
)


@dataclass(frozen=True)
class Tool:
    """An installed tool and an empty folder to work in."""

    programs: Path
    folder: Path

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run one of its programs; return its exit code and what it printed."""
        program, *rest = arguments
        command = [str(self.programs / program), *rest]
        done = subprocess.run(
            command,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"PATH": "/usr/bin:/bin"},
        )
        return done.returncode, done.stdout + done.stderr

    def must(self, *arguments: str) -> str:
        """Run what is honest and has to succeed."""
        code, said = self.run(*arguments)
        if code != 0:
            raise RuntimeError(f"{' '.join(arguments)}: exit {code}: {said[-200:]}")
        return said


Played = dict[str, str]  # cheat -> caught, passes, or why it cannot be played


def said(code: int) -> str:
    """Return what an exit code of a tool's check means."""
    return f"caught (exit {code})" if code else "**passes**"


def falsify(tool: Tool) -> Played:
    """A manifest with a threshold, its digest beside it."""

    def manifest(name: str, threshold: str) -> None:
        tool.must("falsify", "init", name)
        path = tool.folder / name
        text = path.read_text().replace("REPLACE_WITH_UUIDv7", "01900000-0000-7000-8000-000000000000")
        path.write_text(text.replace("REPLACE_WITH_64_LOWERCASE_HEX", "a" * 64).replace("0.90", threshold))
        tool.must("falsify", "lock", name)

    manifest("m.yaml", "0.90")
    tool.must("falsify", "verify", "m.yaml", "--observed", "0.95")
    path = tool.folder / "m.yaml"
    path.write_text(path.read_text().replace("0.90", "0.50"))
    edited, _ = tool.run("falsify", "verify", "m.yaml", "--observed", "0.95")
    tool.run("falsify", "lock", "m.yaml")
    again, _ = tool.run("falsify", "verify", "m.yaml", "--observed", "0.60")
    for name, threshold in (("a.yaml", "0.9"), ("b.yaml", "0.5")):
        manifest(name, threshold)
    variants, _ = tool.run("falsify", "verify", "b.yaml", "--observed", "0.6")
    return dict(zip(CHEATS, (said(edited), said(again), "has no log", said(variants)), strict=True))


def sealedlab(tool: Tool) -> Played:
    """A file and its digest, which its reader keeps."""
    path = tool.folder / "plan.md"
    path.write_text("alpha = 0.05\n")
    tool.must("sealedlab", "seal", "plan.md")
    kept = hashlib.sha256(path.read_bytes()).hexdigest()
    tool.must("sealedlab", "verify", "plan.md", kept)
    path.write_text("alpha = 0.5\n")
    edited, _ = tool.run("sealedlab", "verify", "plan.md", kept)
    again, _ = tool.run("sealedlab", "verify", "plan.md", hashlib.sha256(path.read_bytes()).hexdigest())
    for name in ("b.md", "c.md"):
        (tool.folder / name).write_text(name)
        tool.must("sealedlab", "seal", name)
    variants, _ = tool.run("sealedlab", "verify", "b.md", hashlib.sha256(b"b.md").hexdigest())
    return dict(zip(CHEATS, (said(edited), said(again), "has no log", said(variants)), strict=True))


def falsification_ledger(tool: Tool) -> Played:
    """A chain of claims and verdicts."""
    state = ("--state-dir", "state")

    def claim(case: str, reason: str) -> None:
        tool.must("fl", "preregister", *state, "--case-id", case, "--verdict", "support", "--reason", reason)

    tool.must("fl", "init", *state)
    for case in ("one", "two", "three"):
        claim(case, f"harm above 0.05 in {case}")
    tool.must("fl", "adjudicate", *state, "--case-id", "one", "--verdict", "against")
    tool.must("fl", "verify", *state)
    [log] = [path for path in (tool.folder / "state").rglob("*.jsonl") if path.stat().st_size]
    kept = log.read_bytes()
    log.write_bytes(kept.replace(b"0.05", b"0.01", 1))
    edited, _ = tool.run("fl", "verify", *state)
    log.write_bytes(b"".join(kept.splitlines(keepends=True)[:-1]))
    cut, _ = tool.run("fl", "verify", *state)
    log.write_bytes(kept)
    variants, _ = tool.run("fl", "verify", *state)
    return dict(zip(CHEATS, (said(edited), "not played here", said(cut), said(variants)), strict=True))


def preregister(tool: Tool) -> Played:
    """Predictions of a study in a chain."""
    tool.must("preregister", "--author", "a", "init")
    tool.must("preregister", "--author", "a", "register")
    tool.must("preregister", "verify")
    spec, log = tool.folder / "prereg.yaml", tool.folder / ".prereg/ledger.jsonl"
    text, kept = spec.read_text(), log.read_bytes()
    spec.write_text(text.replace("min_effect: 5.0", "min_effect: 0.1"))
    edited, _ = tool.run("preregister", "verify")
    log.write_bytes(b"")
    tool.must("preregister", "--author", "a", "register")
    again, _ = tool.run("preregister", "verify")
    spec.write_text(text)
    log.write_bytes(b"".join(kept.splitlines(keepends=True)[:-1]))
    cut, _ = tool.run("preregister", "verify")
    return dict(zip(CHEATS, (said(edited), said(again), said(cut), "not played here"), strict=True))


PLAYS: dict[str, Callable[[Tool], Played]] = {
    "falsify": falsify,
    "sealedlab": sealedlab,
    "falsification-ledger": falsification_ledger,
    "preregister": preregister,
}


def bench(name: str, folder: Path) -> list[str]:
    """Install a tool, play what is written for it, and return its row."""
    venv.create(folder / "env", with_pip=True)
    programs = folder / "env" / "bin"
    install = [programs / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", name]
    done = subprocess.run(install, capture_output=True, text=True, timeout=180, check=False)
    if done.returncode:
        return [name, "does not install", *["–"] * len(CHEATS)]
    show = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    version = subprocess.run([programs / "python", "-c", show, name], capture_output=True, text=True, check=True)
    if name not in PLAYS:
        return [name, version.stdout.strip(), *["not played here"] * len(CHEATS)]
    work = folder / "work"
    work.mkdir()
    try:
        played = PLAYS[name](Tool(programs, work))
    except (RuntimeError, ValueError, OSError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"{name}: {error}\n")
        return [name, version.stdout.strip(), *["its honest record did not verify here"] * len(CHEATS)]
    return [name, version.stdout.strip(), *(played[cheat] for cheat in CHEATS)]


def table(rows: list[list[str]]) -> str:
    """Return the rows as Markdown."""
    head = ["tool", "version", *CHEATS]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Play and print, or write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into docs/threat-model.md")
    parser.add_argument("peers", nargs="*", default=PEERS, help="only these")
    given = parser.parse_args()
    rows = []
    for name in given.peers:
        with tempfile.TemporaryDirectory(prefix="peer-") as folder:
            rows.append(bench(name, Path(folder)))
        sys.stderr.write(json.dumps(rows[-1]) + "\n")
    made = table(rows)
    if not given.write:
        sys.stdout.write(f"{made}\n")
        return
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
