"""
How many round trips do probes take? 20 of them against an endpoint of this machine that answers after 200 ms.

The endpoint answers a round at a time: it waits until as many requests are there as may be under way, or as are left,
and lets all of them go 200 ms later. So the number of rounds does not depend on how busy the machine is; a round that
does not fill within seconds goes as it is, and counts. Exits 1 where 8 at a time take more than 3 rounds.
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from vtuned.lm import load
from vtuned.lm.base import Completed, Sampling
from vtuned.lm.options import LoadOptions

N_PROBES, LATENCY_S, CONCURRENCY, MOST = 20, 0.2, 8, 3
PATIENCE_S = 5.0


class Rounds:
    """Requests that wait for each other."""

    def __init__(self, size, n_all):
        self.size, self.n_left = size, n_all
        self.n = 0
        self._changed = threading.Condition()
        self._waiting = 0

    def join(self):
        """Return when the round of this request is over."""
        with self._changed:
            own, self._waiting = self.n, self._waiting + 1
            if self._waiting >= min(self.size, self.n_left) or not self._changed.wait_for(
                lambda: self.n > own, PATIENCE_S
            ):
                self._end()
        time.sleep(LATENCY_S)

    def _end(self):
        self.n_left, self._waiting, self.n = self.n_left - self._waiting, 0, self.n + 1
        self._changed.notify_all()


class Handler(BaseHTTPRequestHandler):
    """Answers with its round."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        """Answer."""
        self.rfile.read(int(self.headers["content-length"]))
        self.server.rounds.join()
        message = {"role": "assistant", "content": "It is blue today."}
        body = json.dumps({"id": "1", "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        """Keep quiet."""


def measured(concurrency):
    """Return round trips and seconds for all probes."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.rounds = Rounds(1, 1)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    model = load("openai:tiny", LoadOptions(base_url=url, concurrency=concurrency))
    prompts = [({"role": "user", "content": f"Question {i}?"},) for i in range(N_PROBES)]
    list(model.answer(prompts[:1], Sampling()))  # what is loaded on first use is no round trip
    server.rounds = Rounds(concurrency, N_PROBES)
    started = time.monotonic()
    answers = list(model.answer(prompts, Sampling()))
    seconds = time.monotonic() - started
    server.shutdown()
    server.server_close()
    assert all(isinstance(answer, Completed) for answer in answers)
    return server.rounds.n, seconds


def main():
    """Print the table; return the exit code."""
    print(f"{N_PROBES} probes, {LATENCY_S * 1000:.0f} ms an answer\n\nat a time  round trips  seconds")
    found = {}
    for concurrency in (1, CONCURRENCY, N_PROBES):
        found[concurrency], seconds = measured(concurrency)
        print(f"{concurrency:9}  {found[concurrency]:11}  {seconds:7.2f}")
    return 1 if found[CONCURRENCY] > MOST else 0


if __name__ == "__main__":
    sys.exit(main())
