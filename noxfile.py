"""The whole suite on every Python that is supported, and with the oldest of every library.

usage: nox                       all of it; a Python that is not installed is left out, and said to be
       nox -s tests-3.13         one Python
       nox -s oldest             the oldest Python, pytest and libraries
       nox -s oldest -- tests/contract -k leak    arguments after -- go to pytest
"""

from collections.abc import Sequence

import nox

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)


def oldest(*requirements: str) -> list[str]:
    """Turn lower bounds into pins; what has no bound stays as new as the others allow."""
    return [bounded.replace(">=", "==") for bounded in requirements if ">=" in bounded]


def run_the_suite(session: nox.Session, *pins: str, options: Sequence[str] = ()) -> None:
    """Install the checkout with its extra ``test``, and run what the arguments name."""
    session.install("--editable", ".[test]", *pins)
    options = ("-n", "auto", "--maxprocesses=4", "--dist=worksteal", *options)
    # Plugins would be rewritten and compiled again for every run of pytest inside of a test.
    session.run("python", "-m", "pytest", *options, *session.posargs, env={"PYTHONDONTWRITEBYTECODE": None})


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the suite with the newest of everything."""
    run_the_suite(session)


@nox.session(python=PYTHONS[0], name="oldest")
def with_the_oldest(session: nox.Session) -> None:
    """Run the suite on the oldest Python, with every lower bound of ``pyproject.toml``."""
    project = PROJECT["project"]
    pins = oldest(*project["dependencies"], *project["optional-dependencies"]["test"])
    run_the_suite(session, *pins, options=["-W", "default"])  # old libraries warn of what they do themselves
