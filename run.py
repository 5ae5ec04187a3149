#!/usr/bin/env python3
"""Run things from a fresh checkout, with nothing but Python: what they need is installed once.

usage: python3 run.py example [ARGUMENT ...]  the example shop, first with its leaks, then without
       python3 run.py tests [ARGUMENT ...]    the project's tests, with their coverage
       python3 run.py lint                    ruff and mypy
       python3 run.py docs                    rewrite the outputs that README.md and docs/ show

The arguments of example and tests go to pytest.
"""

import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

if sys.version_info < (3, 10):  # noqa: UP036 - that it is outdated is what this tells
    sys.exit("run.py: Python 3.10 or newer is needed, this is %d.%d" % sys.version_info[:2])  # noqa: UP031

CHECKOUT = Path(__file__).resolve().parent


def workplace() -> Path:
    """Find the folder for all that is made here: the checkout or, if read-only, one of the user's own."""
    if os.access(CHECKOUT, os.W_OK):
        return CHECKOUT
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"pytest-poolguard-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != user:
        sys.exit(f"run.py: {folder} is somebody else's; set TMPDIR to a folder of your own")
    return folder


def environment(extra: str) -> Path:
    """Provide the Python of a virtual environment that has the checkout with one of its extras."""
    folder = workplace() / ".venv"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "made-by-run.py"  # what it was made for, then the extras that it has
    requirements = hashlib.sha256((CHECKOUT / "pyproject.toml").read_bytes()).hexdigest()
    purpose = f"{sys.version.split()[0]} {requirements} {CHECKOUT}"
    made_for, *extras = stamp.read_text().splitlines() if stamp.exists() else [""]
    if made_for != purpose:
        if importlib.util.find_spec("ensurepip") is None:
            sys.exit("run.py: this Python lacks ensurepip (Debian and Ubuntu: apt-get install python3-venv)")
        print(f"run.py: making a virtual environment, {folder} (once)", flush=True)
        venv.create(folder, clear=stamp.exists(), with_pip=True)
        extras = []
    if extra not in extras:
        pip = (python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input")
        subprocess.run([*pip, "--editable", f"{CHECKOUT}[{extra}]"], check=True)
        stamp.write_text("\n".join([purpose, *extras, extra]))
    return python


def run(python: Path, module: str, *arguments: str, cwd: Path = CHECKOUT, **variables: str) -> int:
    """Run a module, with what it leaves behind in the workplace; returns the exit code."""
    caches = {
        "COVERAGE_FILE": ".coverage",
        "MYPY_CACHE_DIR": ".mypy_cache",
        "RUFF_CACHE_DIR": ".ruff_cache",
    }
    variables |= {name: str(workplace() / file) for name, file in caches.items()}
    command = [str(python), "-m", module, *arguments]
    environ = os.environ | variables
    # Plugins would be rewritten and compiled again for every run of pytest inside of a test.
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    return subprocess.run(command, cwd=cwd, env=environ, check=False).returncode


def example(*arguments: str) -> int:
    """Run the shop's suite on either shop; the leaky one has to fail."""
    python = environment("test")
    for shop, expected, outlook in (
        ("leaky", 1, "The leaky shop: the tests that leak a connection fail."),
        ("fixed", 0, "The fixed shop: the same tests pass."),
    ):
        print(f"\n{outlook}\n", flush=True)
        options = ("-p", "poolguard", "-p", "no:cacheprovider", *arguments)
        code = run(python, "pytest", *options, cwd=CHECKOUT / "examples", SHOP=shop)
        if code != expected:
            sys.exit(f"run.py: pytest ended with exit code {code}, {expected} was expected")
    return 0


def tests(*arguments: str) -> int:
    """Run the project's tests; with arguments for pytest, their coverage needs not be complete."""
    options = [
        f"--override-ini=cache_dir={workplace() / '.pytest_cache'}",
        *("-n", "auto", "--maxprocesses=4", "--dist=worksteal"),
        *("--cov", "--cov-report=term-missing:skip-covered"),
    ]
    if arguments:
        options.append("--cov-fail-under=0")
    return run(environment("test"), "pytest", *options, *arguments)


def docs() -> int:
    """Let the documents show what is printed today."""
    return run(environment("test"), "pytest", "-q", "tests/test_docs.py", POOLGUARD_REWRITE_DOCS="1")


def lint() -> int:
    """Run every check of the source text, even when one has failed."""
    python = environment("lint")
    checks = (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",))
    return max(run(python, *check) for check in checks)


def main(command: str = "--help", *arguments: str) -> int:
    """Do what the command line asks for."""
    commands = {"example": example, "tests": tests, "lint": lint, "docs": docs}
    if command in ("-h", "--help"):
        print((__doc__ or "").partition("\n\n")[2].strip())
        return 0
    if command not in commands:
        sys.exit(f"run.py: there is no command {command!r}, only {', '.join(commands)}")
    if command in ("lint", "docs") and arguments:
        sys.exit(f"run.py: {command} takes no arguments")
    try:
        return commands[command](*arguments)
    except subprocess.CalledProcessError as error:
        sys.exit(f"run.py: the set-up failed with exit code {error.returncode}")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for those who run in here: they clean up
    sys.exit(main(*sys.argv[1:]))
