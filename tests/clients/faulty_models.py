"""Models behind HTTP that do as they are told: answer late, fail, ask for a pause, hang, drop the connection.

`POST /v1/<model>/messages` calls a model. What it does is scripted: a list of behaviours, one a call, of which the last
one stays. Without a script a model answers 200 at once. In Python, `FaultyModels` is all of it. As a program it prints
its address and runs until its standard input ends; then `PUT /script/<model>` takes the list as JSON, and
`GET /calls/<model>` tells what has come.
"""

import dataclasses
import email.utils
import http.server
import json
import select
import socket
import sys
import threading
import time


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """What a model does with one call."""

    status: int = 200
    # Seconds before the answer.
    delay: float = 0
    # Whole seconds, told in Retry-After.
    retry_after: int | None = None
    # Retry-After is told as a date.
    as_date: bool = False
    # No answer until there is another script, which then counts for this call too.
    hang: bool = False
    # The connection is closed without an answer.
    drop: bool = False


class Model:
    """One model: its script and what has come."""

    def __init__(self):
        self.script = [Behaviour()]
        # When calls came, by this host's monotonic clock.
        self.arrivals = []
        self.in_flight = 0

    def next(self):
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


class FaultyModels:
    """A server of models on a free port of loopback; ends with the `with` block."""

    def __init__(self):
        self.changed = threading.Condition()
        self.models = {}
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.faulty = self
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def url(self, model):
        return f"{self.address}/v1/{model}/messages"

    def script(self, model, *behaviours):
        """Replaces the script; each behaviour is given by its fields."""
        parsed = [Behaviour(**each) for each in behaviours]
        with self.changed:
            self.model(model).script = parsed or [Behaviour()]
            self.changed.notify_all()

    def arrivals(self, model):
        with self.changed:
            return list(self.model(model).arrivals)

    def calls(self, model):
        return len(self.arrivals(model))

    def in_flight(self, model):
        with self.changed:
            return self.model(model).in_flight

    def model(self, name):
        """The model of that name; call it with the lock held."""
        return self.models.setdefault(name, Model())

    def behave(self, name, connection):
        """The behaviour of one call that has come, after its wait; none when the caller has gone."""
        with self.changed:
            model = self.model(name)
            model.arrivals.append(time.monotonic())
            model.in_flight += 1
            self.changed.notify_all()
            try:
                behaviour = model.next()
                while behaviour.hang:
                    script = model.script
                    while model.script is script:
                        if has_gone(connection):
                            return None
                        self.changed.wait(0.05)
                    behaviour = model.next()
                until = time.monotonic() + behaviour.delay
                while (left := until - time.monotonic()) > 0:
                    self.changed.wait(left)
                return behaviour
            finally:
                model.in_flight -= 1


def has_gone(connection):
    """Whether the other side has closed the connection."""
    readable, _, _ = select.select([connection], [], [], 0)
    return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


class Handler(http.server.BaseHTTPRequestHandler):
    # One call a connection, so that every client sees a dropped one as what it is.
    protocol_version = "HTTP/1.0"

    def do_POST(self):
        body = self.body()
        match self.path.split("/"):
            case ["", "v1", name, "messages"]:
                behaviour = self.server.faulty.behave(name, self.connection)
            case _:
                return self.send_error(404)
        if behaviour is None or behaviour.drop:
            self.close_connection = True
            return None
        headers = {}
        now = time.time()
        if behaviour.retry_after is not None:
            pause = behaviour.retry_after
            date = email.utils.formatdate(int(now) + pause, usegmt=True)
            headers = {"Retry-After": date if behaviour.as_date else str(pause)}
        answer = {"model": name, "text": f"echo {body.decode()}"}
        if behaviour.status != 200:
            answer = {"error": f"scripted {behaviour.status}"}
        return self.answer(behaviour.status, answer, now, headers)

    def do_PUT(self):
        behaviours = json.loads(self.body())
        match self.path.split("/"):
            case ["", "script", name]:
                self.server.faulty.script(name, *behaviours)
            case _:
                return self.send_error(404)
        return self.answer(200, {}, time.time())

    def do_GET(self):
        faulty = self.server.faulty
        match self.path.split("/"):
            case ["", "calls", name]:
                return self.answer(
                    200, {"arrivals": faulty.arrivals(name), "in_flight": faulty.in_flight(name)}, time.time()
                )
            case _:
                return self.send_error(404)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, status, value, now, headers=()):
        body = json.dumps(value).encode()
        self.send_response_only(status)
        self.send_header("Date", email.utils.formatdate(int(now), usegmt=True))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, text in dict(headers).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    with FaultyModels() as faulty:
        print(faulty.address, flush=True)
        sys.stdin.read()
