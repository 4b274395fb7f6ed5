#!/usr/bin/env python3
"""Does a batch of any2pix on Ray: actors that each hold one `any2pix worker --stdio`, which loads the model once.

`any2pix cluster submit --engine ray` runs this file; docs/cluster.md says how. Ray decides who does which shard, and
nothing else: pictures and journals are any2pix's own, so that a shard whose node was lost is resumed by another actor,
not repeated. Manifest, results and any2pix have the same paths on every node.
"""

from __future__ import annotations

import argparse
import ctypes
import heapq
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
try:
    import ray
    from ray.exceptions import RayActorError
except ImportError:
    print("error: Python has no module `ray`\nhint: pip install ray, or PYTHON=/path/to/python", file=sys.stderr)
    sys.exit(2)

# any2pix's exit codes, by what its replies call them.
EXIT_CODES = {"refused": 2, "model": 3, "storage": 4, "internal": 5, "busy": 75}
# What another attempt cannot change.
FINAL = ("refused", "model")
# How often a shard may be lost or fail.
ATTEMPTS = 5
# How often a shard may be locked by a worker that nobody hears any more, and how long each time to wait, in seconds.
BUSY_ATTEMPTS, BUSY_PAUSE = 60, 5.0
# How many actors may follow a lost one, for each worker.
SUCCESSORS = 4

Reply = dict[str, Any]


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def end_with_parent() -> None:
    """On Linux a worker is told to stop when its actor is gone, so that nobody works unseen."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


class Editor:
    """One worker of any2pix, on some node."""

    def __init__(self, command: list[str], folder: str) -> None:
        self.command, self.folder = command, folder
        self.child: subprocess.Popen[str] | None = None

    def ready(self) -> None:
        """Answered once the actor has found a place."""

    def run(self, shard: int, batch: Reply) -> Reply:
        """The worker's reply to a shard; what ended it, if it ended."""
        try:
            child = self.running()
            assert child.stdin and child.stdout, "both are pipes"
            child.stdin.write(json.dumps({"id": str(shard), "batch": batch}) + "\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except BrokenPipeError:
            line = ""
        except OSError as error:
            return {"status": "failed", "class": "refused", "error": f"any2pix cannot be started: {error}"}
        if line:
            reply: Reply = json.loads(line)
            return reply
        code = child.wait()
        name = next((name for name, its_code in EXIT_CODES.items() if its_code == code), "internal")
        return {"status": "failed", "class": name, "error": f"the worker ended with {code}"}

    def running(self) -> subprocess.Popen[str]:
        if self.child is None or self.child.poll() is not None:
            pipe = subprocess.PIPE
            self.child = subprocess.Popen(
                self.command, cwd=self.folder, stdin=pipe, stdout=pipe, text=True, preexec_fn=end_with_parent
            )
        return self.child


class Batch:
    """Hands shards to actors, one at a time to each, until all are done or given up."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.batch = {
            "manifest": os.path.abspath(options.manifest),
            "out": os.path.abspath(options.out),
            "shards": options.shards,
            "resume": True,
            "allow_outside": options.allow_outside,
        }
        # Shards that wait, with the time before which they are not tried.
        self.waiting: list[tuple[float, int]] = [(0.0, shard) for shard in range(options.shards)]
        # Calls that run; without a shard, the actor is asked whether it is there.
        self.running: dict[ray.ObjectRef[Any], tuple[Any, int | None]] = {}
        self.idle: list[Any] = []
        self.failures: Counter[tuple[int, bool]] = Counter()
        self.done = 0
        self.code = 0
        # Ray restarts nothing by itself: a shard would wait for an actor that finds no place, while others are idle.
        self.actor: Any = ray.remote(num_cpus=options.cpus, num_gpus=options.gpus)(Editor)
        self.command = [options.any2pix, "worker", "--stdio", *options.settings]
        workers = min(options.workers, options.shards)
        self.successors = SUCCESSORS * workers
        for _ in range(workers):
            self.start_actor()

    def start_actor(self) -> None:
        actor = self.actor.remote(self.command, os.getcwd())
        self.running[actor.ready.remote()] = (actor, None)

    def do(self) -> int:
        """The exit code of what happened."""
        while self.waiting or any(shard is not None for _, shard in self.running.values()):
            while self.idle and self.waiting and self.waiting[0][0] <= time.monotonic():
                actor, shard = self.idle.pop(), heapq.heappop(self.waiting)[1]
                call = actor.run.remote(shard, {**self.batch, "shard": shard})
                self.running[call] = (actor, shard)
            if not self.running and not self.idle:
                note("error: every worker was lost\nhint: submit again; what is done stays done")
                return EXIT_CODES["busy"]
            if not self.running:
                time.sleep(0.2)
                continue
            for call in ray.wait(list(self.running), timeout=0.5)[0]:
                self.settle(call)
                if self.code in (EXIT_CODES[name] for name in FINAL):
                    return self.code
        return self.code

    def settle(self, call: ray.ObjectRef[Any]) -> None:
        """Takes the result of a call that has ended."""
        actor, shard = self.running.pop(call)
        try:
            reply = ray.get(call)
        except RayActorError as error:
            what = "a worker" if shard is None else f"shard {shard}: its worker"
            note(f"{what} was lost: {str(error).strip().splitlines()[0]}")
            if shard is not None:
                self.again(shard, "internal", 0.0)
            if self.successors > 0:
                self.successors -= 1
                self.start_actor()
            return
        self.idle.append(actor)
        if shard is not None:
            self.take(shard, reply)

    def take(self, shard: int, reply: Reply) -> None:
        shards = self.batch["shards"]
        if reply["status"] == "done":
            self.done += 1
            done, failed, seconds = reply["done"], reply["failed"], reply["seconds"]
            note(f"shard {shard}: {done} done, {failed} failed, {seconds:.1f} s; {self.done} of {shards} shards")
            return
        kind = reply.get("class", "internal")
        note(f"shard {shard}: {reply.get('error', reply['status'])}")
        if kind in FINAL:
            for fault in reply.get("faults", []):
                note(f"  line {fault['line']}: {fault['reason']}")
            self.code = EXIT_CODES[kind]
        else:
            self.again(shard, kind, BUSY_PAUSE if kind == "busy" else 0.0)

    def again(self, shard: int, kind: str, pause: float) -> None:
        """Queues a shard again, or gives it up."""
        is_busy = kind == "busy"
        self.failures[shard, is_busy] += 1
        if self.failures[shard, is_busy] < (BUSY_ATTEMPTS if is_busy else ATTEMPTS):
            heapq.heappush(self.waiting, (time.monotonic() + pause, shard))
        else:
            note(f"shard {shard}: given up")
            self.code = EXIT_CODES[kind]


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Does a batch of any2pix on Ray.")
    parser.add_argument("manifest")
    parser.add_argument("--out", required=True, help="the folder of the results")
    parser.add_argument("--shards", type=int, required=True, help="parts of the manifest; more than workers")
    parser.add_argument("--workers", type=int, required=True, help="actors, each with one worker of any2pix")
    parser.add_argument("--cpus", type=float, default=1, help="processors of each worker")
    parser.add_argument("--gpus", type=float, default=0, help="graphics processors of each worker")
    parser.add_argument("--any2pix", default="any2pix", help="the program, on every node")
    parser.add_argument("--allow-outside", action="store_true", help="as of `any2pix batch`")
    parser.add_argument("--json", action="store_true", help="print the merge as JSON")
    parser.epilog = "What follows `--` are flags of `any2pix worker`."
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:end])
    options.settings = arguments[end + 1 :]
    return options


def main() -> int:
    options = parse(sys.argv[1:])
    # What Ray tells goes to stderr: stdout is the merge's.
    sys.stdout = sys.stderr
    # The cluster that RAY_ADDRESS names, or one that runs on this machine, or a new one.
    ray.init(logging_level=logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        code = Batch(options).do()
    except KeyboardInterrupt:
        return 130
    finally:
        ray.shutdown()
    if code in (EXIT_CODES[name] for name in FINAL):
        return code
    merge = [options.any2pix, "merge", options.out] + (["--json"] if options.json else [])
    merged = subprocess.run(merge).returncode
    return code or merged


if __name__ == "__main__":
    sys.exit(main())
