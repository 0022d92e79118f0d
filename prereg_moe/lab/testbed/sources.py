"""Where the testbed's text comes from: published wheels, by name and version, with their licences.

A source serves training and corpus A, or corpus B, never both. The wheels are fetched with
``pip download`` and read as archives; none of their code runs.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from prereg_moe.errors import NotCheckable, Problem

__all__ = ["SOURCES", "Source", "Wheel", "fetch"]


@dataclass(frozen=True, slots=True)
class Source:
    """One published package: what is taken from it, for which corpora, under which licence.

    Attributes:
        licence: SPDX identifier.
        use: one of {``train``, ``train+A``, ``B``}.
        kind: what is read in it, of {``messages``, ``code``, ``doctests``}.
        folder: only members below it are read; other projects a wheel bundles are none of ours.
    """

    package: str
    version: str
    licence: str
    use: str
    kind: tuple[str, ...]
    folder: str = ""


def _jupyterlab(language: str) -> Source:
    return Source(f"jupyterlab-language-pack-{language}", "4.5.post3", "BSD-3-Clause", "train", ("messages",))


SOURCES = (
    Source("apache-superset", "6.1.0", "Apache-2.0", "train+A", ("messages", "code")),
    Source("homeassistant", "2024.3.3", "Apache-2.0", "train", ("messages",)),
    *(_jupyterlab(language) for language in ("ar-SA", "es-ES", "fr-FR", "ja-JP", "zh-CN")),
    Source("kolibri", "0.17.5", "MIT", "train", ("messages",), folder="kolibri/locale/"),
    Source("dask", "2026.8.0", "BSD-3-Clause", "train+A", ("code",)),
    Source("sqlglot", "30.30.0", "MIT", "train+A", ("code",)),
    Source("sympy", "1.14.0", "BSD-3-Clause", "train+A", ("doctests",)),
    Source("django", "5.2", "BSD-3-Clause", "B", ("messages",)),
    Source("wagtail", "8.0", "BSD-3-Clause", "B", ("messages",)),
    Source("django-allauth", "65.21.1", "MIT", "B", ("messages",)),
    Source("networkx", "3.6", "BSD-3-Clause", "B", ("code",)),
    Source("mpmath", "1.3.0", "BSD-3-Clause", "B", ("doctests",)),
)


@dataclass(frozen=True, slots=True)
class Wheel:
    """A downloaded source: the package and the archive that holds it."""

    source: Source
    path: Path

    def members(self, *suffixes: str) -> Iterator[tuple[str, bytes]]:
        """Yield (name, bytes) of the source's members that end with one of the suffixes, in name order."""
        with zipfile.ZipFile(self.path) as archive:
            for name in sorted(archive.namelist()):
                if name.startswith(self.source.folder) and name.endswith(suffixes):
                    yield name, archive.read(name)

    def licences(self) -> dict[str, bytes]:
        """Return the licence and notice texts of the package itself, by file name.

        Raises:
            NotCheckable: the wheel carries no licence text, so its text may not be used.
        """
        texts = {}
        with zipfile.ZipFile(self.path) as archive:
            for member in map(PurePosixPath, sorted(archive.namelist())):
                if member.parts[0].endswith(".dist-info") and member.name.startswith(("LICENSE", "NOTICE")):
                    texts[member.name] = archive.read(str(member))
        if not texts:
            raise NotCheckable(Problem(self.path.name, "carries no licence text", "choose another source"))
        return texts


def fetch(folder: Path) -> tuple[Wheel, ...]:
    """Download every source into ``folder``, unless it is there, and return the wheels in table order.

    Raises:
        NotCheckable: pip could not download a package.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return tuple(Wheel(source, _find(source, folder) or _download(source, folder)) for source in SOURCES)


def _find(source: Source, folder: Path) -> Path | None:
    stem = f"{source.package.replace('-', '_')}-{source.version}-".lower()
    return next((path for path in sorted(folder.glob("*.whl")) if path.name.lower().startswith(stem)), None)


def _download(source: Source, folder: Path) -> Path:
    wanted = f"{source.package}=={source.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(  # noqa: S603 - the arguments are the table above
        [*command, "--dest", str(folder), wanted], capture_output=True, text=True, check=False
    )
    found = _find(source, folder)
    if done.returncode or found is None:
        last = done.stderr.strip().splitlines()[-1:] or ["no wheel"]
        raise NotCheckable(Problem(wanted, f"cannot be downloaded ({last[0]})", "check the connection and try again"))
    return found
