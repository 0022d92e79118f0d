"""The command line: one verb a stage, each a thin call into the library.

The verbs stand in `prepare`, `study` and `integrity`; what is printed is in `show`. A stage is
imported when its verb is used, so that ``--help``, ``check``, ``freeze`` and ``status`` start
without scipy, and nothing but the lab's workers loads torch. An expected error is one line a
problem (what, where, what to do) and the exit code of its fault; with ``--json`` the last line
of output is one JSON document.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click
from rich.markup import escape

from prereg_moe import __version__
from prereg_moe.cli import changing, elsewhere, integrity, prepare, show, study
from prereg_moe.cli.trust import trust
from prereg_moe.errors import Invalid, PreregError, Problem, Stopped

__all__ = ["cli", "main"]

_TRUST = {"cryptography", "securesystemslib", "rfc3161_client"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = cli.main(args=arguments, prog_name="prereg-moe", standalone_mode=False)
    except PreregError as error:
        _fail(error, as_json="--json" in arguments)
        sys.exit(error.exit_code)
    except click.UsageError as error:
        error.show()
        sys.exit(Invalid.exit_code)
    except (click.Abort, KeyboardInterrupt):
        show.err.print("interrupted; what is written stays, run the command again to go on")
        sys.exit(Stopped.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Stopped.exit_code)
    except ModuleNotFoundError as error:
        extra = "trust" if str(error.name).partition(".")[0] in _TRUST else "lab"
        found, todo = f"the package {error.name} is not installed", f"install it: pip install 'prereg-moe[{extra}]'"
        _fail(Invalid(Problem(extra, found, todo)), as_json="--json" in arguments)
        sys.exit(Invalid.exit_code)
    except Exception as error:  # the one place where a bug becomes a message
        if os.environ.get("PREREG_MOE_DEBUG"):
            raise
        show.err.print(f"[red]a bug in prereg-moe:[/] {escape(repr(error))}; set PREREG_MOE_DEBUG=1 to see where")
        sys.exit(Stopped.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: PreregError, *, as_json: bool) -> None:
    for problem in error.problems:
        show.err.print(f"[red]error:[/] {escape(str(problem))}")
    if as_json:
        problems = [{"where": p.where, "found": p.found, "todo": p.todo} for p in error.problems]
        show.print_json({"exit_code": error.exit_code, "problems": problems})


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="prereg-moe")
def cli() -> None:
    """Checkable causal claims about mixture-of-experts language models.

    Write a registration, freeze it, run it, judge it, report it; let anyone audit it.

    Exit codes: 0 done - 1 a manuscript's claim is not supported - 2 wrong usage or invalid document - 3 tampered -
    4 evidence missing - 5 deviated from the registration - 6 the run stopped.
    """


for _command in (
    *(prepare.init, prepare.check, prepare.inspect, prepare.atlas, prepare.diagnose, prepare.freeze),
    *(study.demo, study.run, study.rescore, study.status, study.verdict, study.report),
    *(changing.amend, changing.look, changing.deviate),
    elsewhere.import_,
    *(integrity.audit, integrity.bundle, integrity.attack, trust),
):
    cli.add_command(_command)
