"""A worker's loop around its model calls, guarded by Fusewire's circuit breakers. An example to copy.

It asks Fusewire which model of a fallback chain may be called, calls it, and says how that went. As a program it sends
every line of standard input to the models and tells what happens as lines of JSON:

    worker.py --fusewire 127.0.0.1:50051 --model anthropic:sonnet=http://… --model openai:gpt=http://…
"""

import argparse
import contextlib
import datetime
import email.utils
import http.client
import json
import logging
import re
import signal
import sys
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import grpc
from fusewire.v1 import circuit_breakers_pb2 as pb
from fusewire.v1 import circuit_breakers_pb2_grpc as pb_grpc

log = logging.getLogger(__name__)

# Seconds that Fusewire may take for one answer. It is close by; what it asks for takes milliseconds.
RPC_TIMEOUT = 5


class NoAnswer(Exception):
    """No model gave an answer."""


@dataclass
class Worker:
    """Calls models, those first that come first, as their breakers allow."""

    breakers: pb_grpc.CircuitBreakersStub
    # What can fail, by the name that all workers give it (the model key), and where it is called; best first.
    models: dict[str, str]
    # Seconds without a byte from a model before its call is given up.
    call_timeout: float = 60
    # Told the state of a breaker whenever this worker learns of it; for logs and metrics.
    saw: Callable[[str, str], None] = lambda model_key, state: None

    def ask(self, prompt: bytes, attempts: int = 10, patience: float = 120) -> tuple[str, bytes]:
        """Returns the first good answer and whose it is. `patience` bounds the waiting for leave to call.

        After a failed call it just asks Fusewire again: that model comes first until its breaker opens, then the next.
        """
        deadline = time.monotonic() + patience
        for _ in range(attempts):
            permit = self.wait_for_permit(deadline)
            status, answer = self.call(permit, prompt)
            if 200 <= status < 300:
                return permit.model_key, answer
            # The request is at fault; no other call of it will do better. The exceptions are the model's affair.
            if 400 <= status < 500 and status not in (401, 402, 403, 408, 429):
                raise NoAnswer(f"{permit.model_key} refused the request with {status}")
        raise NoAnswer(f"{attempts} calls failed")

    def wait_for_permit(self, deadline: float) -> pb.Permit:
        """Waits until one of the models may be called. The permit says which."""
        while True:
            answer = self.breakers.AcquireFirst(
                # The id makes it safe for a channel to retry this call: the same id is the same permit. Every new
                # question has a new one.
                pb.AcquireFirstRequest(model_keys=self.models, request_id=uuid.uuid4().hex),
                timeout=RPC_TIMEOUT,
            )
            for rejection in answer.rejections:
                self.saw(rejection.model_key, pb.State.Name(rejection.state))
            if answer.admitted:
                # Only trial calls of a HALF_OPEN breaker have a lease.
                if answer.permit.lease_id:
                    self.saw(answer.permit.model_key, pb.State.Name(pb.STATE_HALF_OPEN))
                return answer.permit
            # Absent when nobody knows. At most 5 s, so as to learn soon of a breaker that was reset by hand.
            pause = seconds(answer.retry_after) if answer.HasField("retry_after") else 1
            pause = min(max(pause, 0.01), 5)
            if time.monotonic() + pause > deadline:
                raise NoAnswer(f"none of {', '.join(self.models)} may be called")
            time.sleep(pause)

    def call(self, permit: pb.Permit, prompt: bytes) -> tuple[int, bytes]:
        """Calls the model of a permit once; status 0 stands for no answer. Reports in every case."""
        # This stays when neither an answer nor an error comes, but an order to stop: no fault of the model.
        report = pb.ReportRequest(permit=permit, outcome=pb.OUTCOME_CANCELLED)
        status, answer = 0, b""
        began = time.monotonic_ns()
        try:
            with self.renewing(permit):
                status, headers, answer = post(self.models[permit.model_key], prompt, self.call_timeout)
            # Fusewire knows what a status means for a breaker.
            report.outcome, report.http_status = pb.OUTCOME_UNSPECIFIED, status
            if pause := retry_after(headers):
                report.retry_after.FromTimedelta(pause)
            if status >= 400:
                report.detail = answer[:128].decode(errors="replace")
        except TimeoutError:
            report.outcome = pb.OUTCOME_TIMEOUT
        except (OSError, http.client.HTTPException) as failure:
            report.outcome, report.detail = pb.OUTCOME_FAILURE, repr(failure)[:128]
        finally:
            report.duration.FromNanoseconds(time.monotonic_ns() - began)
            self.report(report)
        return status, answer

    def report(self, report: pb.ReportRequest) -> None:
        """Tells Fusewire how a call went. An answer that was paid for is not given up when that fails."""
        try:
            breaker = self.breakers.Report(report, timeout=RPC_TIMEOUT).breaker
            self.saw(breaker.model_key, pb.State.Name(breaker.state))
        except grpc.RpcError as failure:
            log.warning("a report was lost: %s", failure)

    @contextlib.contextmanager
    def renewing(self, permit: pb.Permit):
        """Keeps the lease of a trial call alive while the block runs, renewing it at half of its time."""
        if not permit.lease_id:
            yield
            return
        ended = threading.Event()

        def renew():
            lease = seconds(permit.lease)
            pause = lease / 2
            while not ended.wait(pause):
                try:
                    answer = self.breakers.RenewPermit(pb.RenewPermitRequest(permit=permit), timeout=RPC_TIMEOUT)
                except grpc.RpcError as failure:
                    log.warning("a permit was not renewed: %s", failure)
                    pause = lease / 8
                    continue
                if not answer.renewed:
                    # The breaker has moved on; the report will be STALE, which is no error.
                    return
                lease = seconds(answer.permit.lease)
                pause = lease / 2

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def post(url: str, body: bytes, timeout: float) -> tuple[int, http.client.HTTPMessage, bytes]:
    """One HTTP call, in place of a provider's SDK (whose own retries should be off: Fusewire counts every call)."""
    parts = urllib.parse.urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    with contextlib.closing(kind(parts.netloc, timeout=timeout)) as connection:
        connection.request("POST", parts.path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def retry_after(headers) -> datetime.timedelta | None:
    """The pause that an answer asks for, told in seconds or as a date; none if it makes no sense or has passed."""
    text = (headers.get("Retry-After") or "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        pause = datetime.timedelta(seconds=int(text))
    elif date := http_date(text):
        # By the clock that the date is told by, if the answer shows it.
        pause = date - (http_date(headers.get("Date")) or datetime.datetime.now(datetime.UTC))
    else:
        return None
    return pause if pause > datetime.timedelta() else None


def http_date(text: str | None) -> datetime.datetime | None:
    try:
        date = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=datetime.UTC)


def seconds(duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fusewire", default="127.0.0.1:50051", metavar="ADDRESS")
    parser.add_argument("--model", action="append", required=True, metavar="KEY=URL", help="again for a fallback")
    parser.add_argument("--attempts", type=int, default=10)
    parser.add_argument("--timeout", type=float, default=60, help="seconds that a model may be silent")
    arguments = parser.parse_args()

    def tell(**event):
        print(json.dumps(event), flush=True)

    # As an exception, so that a call under way is reported before the process ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # One channel a process; Fusewire is on this machine, so no proxy leads to it.
    with grpc.insecure_channel(arguments.fusewire, options=[("grpc.enable_http_proxy", 0)]) as channel:
        worker = Worker(
            pb_grpc.CircuitBreakersStub(channel),
            dict(each.split("=", 1) for each in arguments.model),
            arguments.timeout,
            lambda model_key, state: tell(model=model_key, state=state),
        )
        for line in sys.stdin:
            try:
                model_key, answer = worker.ask(line.rstrip("\n").encode(), arguments.attempts)
                tell(model=model_key, answer=answer.decode(errors="replace"))
            except NoAnswer as failure:
                tell(error=str(failure))


if __name__ == "__main__":
    main()
