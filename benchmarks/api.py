"""How fast the API answers over a full database, against a bare FastAPI route; and what starting and uploading cost.

    python benchmarks/api.py [--jobs 10000] [--events 100000] [--requests 500] [--upload-mb 512]

Both sides run in one uvicorn process each and are asked in turn, one request at a time over one kept connection:
* `list`, `retrieve`: GET /v1/fine_tuning/jobs?limit=20 and GET /v1/fine_tuning/jobs/ID of a real server whose database
  holds that many jobs and events;
* `bare`: a FastAPI route that returns a small constant.
`ratio` is p95 of `list` over p95 of `bare`. Then one file of made-up training rows is uploaded, and the server's peak
memory is compared with its memory before; and `tunewise up` and `tunewise --help` are timed, the median of three.
The last line of the output is one JSON object. Goals: p95 under 10 ms, memory under 150 MB over idle, ready under 2 s,
help under 0.3 s.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from tunewise.contracts.jobs import Job, JobRequest
from tunewise.jobs.platform import open_platform
from tunewise.settings import Settings
from tunewise.store import events, jobs
from tunewise.store.rows import new_id

BARE = """
import uvicorn
from fastapi import FastAPI
app = FastAPI()
@app.get("/")
def bare() -> dict[str, str]:
    return {"status": "ok"}
server = uvicorn.Server(uvicorn.Config(app, port=0, access_log=False, log_level="error"))
from tunewise.cli.up import listen
listening = listen("127.0.0.1", 0)
print(f"at http://127.0.0.1:{listening.getsockname()[1]}/v1", flush=True)
server.run(sockets=[listening])
"""
STARTS = 3
MEGABYTE = 1024 * 1024


def main() -> None:
    """Measure everything, and print it as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--upload-mb", type=int, default=512)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        state = Path(name)
        job_id = fill(state, options.jobs, options.events)
        sides = latencies(state, job_id, options.requests)
        upload = upload_memory(state, options.upload_mb)
        ready = statistics.median(ready_seconds(state) for _ in range(STARTS))
    outcome = {
        "name": "api",
        "ratio": round(sides["list_p95_ms"] / sides["bare_p95_ms"], 2),
        "sides": sides,
        "jobs": options.jobs,
        "events": options.events,
        **upload,
        "up_ready_seconds": round(ready, 2),
        "help_seconds": round(statistics.median(help_seconds() for _ in range(STARTS)), 3),
    }
    print(json.dumps(outcome))


def fill(state: Path, job_count: int, event_count: int) -> str:
    """A database of that many jobs, with the events spread over them; the id of one in the middle."""
    platform = open_platform(Settings(state=state))
    request = JobRequest(model="m", base="smollm2-135m-instruct", training_file="file-x", seed=1, metadata={"a": "b"})
    ids = []
    with platform.database.write() as session:
        for _ in range(job_count):
            job = Job(
                id=new_id("ftjob-"),
                project="default",
                organization="o",
                request=request,
                status="validating_files",
                created_at=1,
            )
            jobs.add(session, job)
            jobs.transition(session, job.id, "cancelled")
            ids.append(job.id)
            for number in range(event_count // job_count):
                events.tell(session, job.id, f"Step {number}: training loss=0.50")
    platform.database.close()
    return ids[len(ids) // 2]


@contextmanager
def server(command: list[str], state: Path) -> Iterator[tuple[psutil.Process, str]]:
    """A server process and its address, from its first line of output."""
    environment = {**os.environ, "TUNEWISE_STATE": str(state)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its modules compiled
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        address = process.stdout.readline().decode().rpartition(" ")[2].strip().removesuffix("/v1")
        try:
            yield psutil.Process(process.pid), address
        finally:
            process.terminate()
            process.wait(30)


def up_command() -> list[str]:
    """The real server, without workers."""
    return [sys.executable, "-m", "tunewise.cli", "up", "--no-worker", "--port", "0"]


def latencies(state: Path, job_id: str, requests: int) -> dict[str, float]:
    """95th percentiles in milliseconds, the sides asked in turn."""
    with server(up_command(), state) as (_, ours), server([sys.executable, "-c", BARE], state) as (_, bare):
        urls = {
            "bare": f"{bare}/",
            "list": f"{ours}/v1/fine_tuning/jobs?limit=20",
            "retrieve": f"{ours}/v1/fine_tuning/jobs/{job_id}",
            "events": f"{ours}/v1/fine_tuning/jobs/{job_id}/events",
        }
        load_studio(ours)
        times: dict[str, list[float]] = {side: [] for side in urls}
        with httpx.Client() as client:
            for number in range(requests + 20):
                for side, url in urls.items():
                    started = time.perf_counter()
                    client.get(url).raise_for_status()
                    if number >= 20:  # the first ones warm both sides up
                        times[side].append(1000 * (time.perf_counter() - started))
    p50 = {f"{side}_p50_ms": round(statistics.median(taken), 2) for side, taken in times.items()}
    return p50 | {f"{side}_p95_ms": round(statistics.quantiles(taken, n=20)[-1], 2) for side, taken in times.items()}


def load_studio(url: str) -> None:
    """Wait until the pages are loaded, which the server does beside its first answers."""
    httpx.get(url, timeout=60).raise_for_status()


def upload_memory(state: Path, megabytes: int) -> dict[str, float]:
    """Upload a training file; the server's peak memory over what it had before, in MB."""
    row = json.dumps({"messages": [{"role": "user", "content": "x" * 900}, {"role": "assistant", "content": "y"}]})
    line = row.encode() + b"\n"
    path = state / "rows.jsonl"
    with path.open("wb") as file:
        block = line * (MEGABYTE // len(line))
        for _ in range(megabytes):
            file.write(block)
    with server(up_command(), state) as (process, url), httpx.Client(timeout=600) as client:
        load_studio(url)
        client.get(f"{url}/v1/files").raise_for_status()
        idle = process.memory_info().rss
        started = time.perf_counter()
        with path.open("rb") as file:
            client.post(f"{url}/v1/files", files={"file": file}, data={"purpose": "fine-tune"}).raise_for_status()
        seconds = time.perf_counter() - started
        peak = peak_bytes(process.pid)
    return {
        "upload_mb": megabytes,
        "upload_seconds": round(seconds, 1),
        "idle_mb": round(idle / MEGABYTE),
        "peak_over_idle_mb": round((peak - idle) / MEGABYTE),
    }


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had resident, as Linux keeps it."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def ready_seconds(state: Path) -> float:
    """From starting `tunewise up` until /readyz answers."""
    started = time.perf_counter()
    with server(up_command(), state) as (_, url):
        httpx.get(f"{url}/readyz", timeout=30).raise_for_status()
        return time.perf_counter() - started


def help_seconds() -> float:
    """`tunewise --help`."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "tunewise.cli", "--help"], check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
