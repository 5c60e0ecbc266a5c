"""Starts what clients talk to, a redis-server and fusewire processes, and ends those and no others.

FUSEWIRE_BIN is the server's binary; default target/debug/fusewire.
"""

import os
import pathlib
import re
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("FUSEWIRE_BIN", ROOT / "target/debug/fusewire")).absolute()


def poll(what, condition, seconds=20):
    """Returns the first true value of condition(), asked until the deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s: {what}")


def free_port():
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A child process with its output in a file."""

    def __init__(self, folder, name, command, env=None):
        self.log = folder / f"{name}.log"
        # A process that is started again goes on in the same file.
        with self.log.open("ab") as out:
            self.child = subprocess.Popen(
                command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )

    def output(self):
        """What it has printed so far, without colours."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text(errors="replace"))

    def running(self):
        return self.child.poll() is None

    def end(self, sig=signal.SIGTERM, seconds=20):
        """Sends the signal if it is still running and returns the exit status."""
        if self.running():
            self.child.send_signal(sig)
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise


class Redis(Process):
    """A redis-server on a port of its own; a durable one has its data again when it comes back, even from SIGKILL."""

    def __init__(self, folder, port, durable=False):
        self.folder, self.port, self.durable = folder, port, durable
        log = ["--appendonly", "yes", "--appendfsync", "always"] if durable else ["--appendonly", "no"]
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", *log]
        super().__init__(folder, "redis", command)

    @classmethod
    def start(cls, folder, durable=False):
        """Starts it on a free port; tries another if that was taken since."""
        for _ in range(5):
            redis = cls(folder, free_port(), durable)
            poll("redis-server answers or ends", lambda server=redis: not server.running() or server.answers())
            if redis.running():
                return redis
        raise AssertionError("redis-server does not start:\n" + redis.output())

    def start_again(self):
        """Starts one that has ended, where it was."""
        assert not self.running()
        self.__init__(self.folder, self.port, self.durable)
        poll("redis-server answers", lambda: not self.running() or self.answers())
        assert self.running(), "redis-server does not start again:\n" + self.output()

    def answers(self):
        """Whether it is this process that answers on the port."""
        command = ["redis-cli", "-p", str(self.port), "INFO", "server"]
        return f"process_id:{self.child.pid}\n" in subprocess.run(command, capture_output=True, text=True).stdout

    def cli(self, *arguments):
        """What redis-cli prints, as lines."""
        command = ["redis-cli", "-p", str(self.port), *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


class Fusewire(Process):
    """A fusewire process on a free port, with these settings and none from outside."""

    def __init__(self, folder, name="fusewire", **settings):
        env = {
            "PATH": os.environ["PATH"],
            "FUSEWIRE__SERVER__LISTEN": "127.0.0.1:0",
            # A busy machine must not look like an outage.
            "FUSEWIRE__REDIS__OUTAGE_AFTER": "10s",
            **settings,
        }
        super().__init__(folder, name, [str(BINARY)], env)
        try:
            self.address = poll(f"{name} listens", self._address)
        except BaseException:
            self.end(signal.SIGKILL)
            raise

    def _address(self):
        assert self.running(), f"{self.log.stem} ended at once:\n{self.output()}"
        found = re.search(r'listening.*address="?(127\.0\.0\.1:\d+)', self.output())
        return found and found.group(1)
