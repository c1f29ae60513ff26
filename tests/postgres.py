"""A PostgreSQL server of the tests' own: Debian's, in a temporary folder, on a free loopback port."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from needs import missing
from ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

_START_S = 90  # also where a machine is slow, or does much else
_BIN = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


class Server:
    """One server. `url(name)` is a new, empty database each time a new name is given."""

    def __init__(self, folder: Path, *settings: str) -> None:
        if not _BIN:
            missing("postgres", "apt-get install postgresql")
        self._bin = _BIN[-1].parent
        self._folder, self._data = folder, folder / "data"
        self._settings = settings
        self._made: set[str] = set()
        self._numbers = itertools.count(1)
        self.port = free_ports(1)[0]
        self.process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            shutil.chown(folder, _user())
        self._call("initdb", "-D", str(self._data), "-U", "ours", "-A", "trust", "-E", "UTF8", "--no-sync")
        self.start()

    def start(self) -> None:
        options = ("fsync=off", "max_connections=60", f"unix_socket_directories={self._folder}", *self._settings)
        flags = [word for option in options for word in ("-c", option)]
        self.process = subprocess.Popen(
            [
                *self._command("postgres"),
                "-D",
                str(self._data),
                "-p",
                str(self.port),
                "-h",
                "127.0.0.1",
                *flags,
            ],
            stdout=subprocess.DEVNULL,
            stderr=(self._folder / "log").open("ab"),
        )
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            try:
                psycopg.connect(self.admin, connect_timeout=2).close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError((self._folder / "log").read_text()[-2000:])

    def kill(self) -> None:
        """As when the machine loses its power, but for the disk's own cache."""
        pid = int((self._data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        self._wait()
        # Its children notice that it is gone; until they are, no other may start on these data.
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if subprocess.run(["pgrep", "-f", str(self._data)], capture_output=True, check=False).returncode:
                break
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            pid = int((self._data / "postmaster.pid").read_text().split()[0])
            os.kill(pid, signal.SIGQUIT)
            self._wait()

    def _wait(self) -> None:
        if self.process is not None:
            self.process.wait(_START_S)

    @property
    def admin(self) -> str:
        return f"postgresql://ours@127.0.0.1:{self.port}/postgres"

    def url(self, name: str | None = None, template: str = "template1") -> str:
        name = name or f"db{next(self._numbers)}"
        if name not in self._made:
            self._made.add(name)
            with psycopg.connect(self.admin, autocommit=True) as db:
                db.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return f"postgresql://ours@127.0.0.1:{self.port}/{name}"

    def _command(self, program: str) -> list[str]:
        whole = str(self._bin / program)
        # The server refuses to run as root.
        return (
            ["setpriv", f"--reuid={_user()}", f"--regid={_user()}", "--clear-groups", whole]
            if os.geteuid() == 0
            else [whole]
        )

    def _call(self, program: str, *arguments: str) -> None:
        ran = subprocess.run([*self._command(program), *arguments], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr


def _user() -> str:
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise AssertionError("no user to run a database as")


@contextmanager
def running(*settings: str) -> Iterator[Server]:
    """A server for the time of the block."""
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    try:
        server = Server(folder, *settings)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
