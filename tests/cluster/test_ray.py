#!/usr/bin/env python3
"""Ray with two simulated nodes, one of which is killed mid-run: results and report are those of one process.

    python tests/cluster/test_ray.py target/release/any2pix

Needs the package `ray`. Edits are real: the embedded model and the pictures of `examples/media`.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Else Ray's workers are nice, and starve beside whatever else this machine does.
os.environ["RAY_worker_niceness"] = "0"
from ray.cluster_utils import Cluster

HERE = pathlib.Path(__file__).resolve().parent
MEDIA = HERE.parent.parent / "examples" / "media"
SHARDS = 4
PATIENCE = 600.0


def results(out: pathlib.Path) -> dict[str, bytes]:
    """What must not depend on how the batch was done."""
    files = [out / "results.jsonl", out / "report.json", *sorted((out / "outputs").iterdir())]
    return {file.name: file.read_bytes() for file in files}


def shards_in_work(out: pathlib.Path) -> list[str]:
    """Shards with a finished row that are not finished themselves."""
    journals = (path for path in out.glob("part-*.jsonl") if path.read_text().count("\n") > 1)
    return [path.stem for path in journals if not path.with_suffix(".done").exists()]


def wait_until_both_work(driver: subprocess.Popen[bytes], out: pathlib.Path) -> None:
    end = time.monotonic() + PATIENCE
    while len(shards_in_work(out)) < 2:
        assert driver.poll() is None, "the batch ended before both nodes worked"
        assert time.monotonic() < end, "two shards were never in work"
        time.sleep(0.02)


def run(any2pix: str, work: pathlib.Path) -> None:
    for file in [*MEDIA.iterdir(), HERE / "manifest.jsonl"]:
        shutil.copy(file, work)
    manifest, one, many = (str(work / name) for name in ("manifest.jsonl", "one", "many"))
    common = ["--seed", "7", "--threads", "1", "--quiet"]
    alone = subprocess.run([any2pix, "batch", manifest, "--out", one, *common], cwd=work).returncode
    print(f"one process ended with {alone}", flush=True)
    # The head computes nothing, so that each of the two nodes gets one of the two workers.
    os.environ["RAY_TMPDIR"] = str(work)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        submit = ["cluster", "submit", "--engine", "ray", manifest, "--out", many]
        driver = subprocess.Popen(
            [any2pix, *submit, "--workers", "2", "--shards", str(SHARDS), *common],
            cwd=work,
            env={**os.environ, "RAY_ADDRESS": cluster.address, "PYTHON": sys.executable},
            stderr=(work / "log").open("w"),
        )
        wait_until_both_work(driver, pathlib.Path(many))
        cluster.remove_node(nodes[1], allow_graceful=False)
        print("one of the two nodes is killed", flush=True)
        driver.wait(timeout=PATIENCE)
    finally:
        said = (work / "log").read_text()
        print(said, flush=True)
        cluster.shutdown()
    assert "its worker was lost" in said, "the driver did not notice"
    assert driver.returncode == alone, f"the cluster ended with {driver.returncode}, one process with {alone}"
    expected, found = results(pathlib.Path(one)), results(pathlib.Path(many))
    assert expected.keys() == found.keys(), expected.keys() ^ found.keys()
    different = [name for name in expected if expected[name] != found[name]]
    assert not different, different
    print(f"{len(found)} files are the same, byte for byte")


if __name__ == "__main__":
    folder = pathlib.Path(tempfile.mkdtemp(prefix="a2p-"))
    try:
        run(str(pathlib.Path(sys.argv[1]).resolve()), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
