"""How fast `attn retrieve serve` answers: one client, many at once, and `search --server` from a shell.

    python tests/benchmarks/retrieve_serve.py [--items 100000] [--clients 16] [--queries 200] [--shell 5]

The index holds random unit vectors under the fingerprint of ``--model`` (default: the packaged MiniLM), so that the
server embeds real sentences and compares them with as many entries as are asked for. Times are wall time from request
to answer, through HTTP, a connection for each request. Peak memory is that of the server's process.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from attn.core.retrieve.store import Header, create

WORDS = "bear grass river town old new red blue heat noise model photo paper dog cat boat street child bread".split()
BATCH = 20_000


def build(place: Path, items: int, model: str) -> None:
    """An index of random vectors that ``model`` could have made."""
    from attn.core.retrieve.encoders.load import load

    mark = load(model).fingerprint
    store = create(place, Header.new(mark.to_dict(), mark.dim), "flat")
    generator = np.random.default_rng(1)
    for first in range(0, items, BATCH):
        rows = range(first, min(first + BATCH, items))
        x = generator.standard_normal((len(rows), mark.dim), dtype=np.float32)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        store.add([f"{row:07d}" for row in rows], x, [{"text": f"entry {row}"} for row in rows])
    store.close()


def sentences(count: int, seed: int) -> list[str]:
    """Sentences of three to eight words, no two clients the same."""
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(3, 9))) for _ in range(count)]


def asked(address: str, texts: Sequence[str], times: list[float], faults: list[str]) -> None:
    """One client: each sentence in turn."""
    for text in texts:
        connection = http.client.HTTPConnection(address, timeout=300)
        start = time.perf_counter()
        try:
            connection.request("POST", "/search", json.dumps({"text": text}), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            body = json.loads(answer.read())
            if answer.status != 200 or len(body["results"][0]["hits"]) != 10:
                faults.append(str(body)[:200])
        except Exception as error:
            faults.append(repr(error))
        finally:
            connection.close()
        times.append(1e3 * (time.perf_counter() - start))


def peak_mb(process: int) -> float:
    """Peak resident memory of another process; Linux only."""
    return int(Path(f"/proc/{process}/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def row(what: str, times: Sequence[float], faults: Sequence[str], mb: float, seconds: float) -> None:
    middle, late = np.percentile(times, [50, 95])
    print(
        f"| {what} | {len(times)} | {middle:.1f} | {late:.1f} | {len(times) / seconds:.1f} | {len(faults)} | {mb:.0f} |"
    )
    for fault in faults[:3]:
        print(f"<!-- {fault} -->", file=sys.stderr)


def measure(address: str, process: int, arguments: argparse.Namespace) -> None:
    print("| clients | queries | p50, ms | p95, ms | queries/s | errors | peak MB |\n|---|---|---|---|---|---|---|")
    asked(address, sentences(5, seed=9), [], [])
    for clients in dict.fromkeys((1, arguments.clients)):
        times: list[float] = []
        faults: list[str] = []
        texts = [sentences(arguments.queries, seed) for seed in range(clients)]
        threads = [threading.Thread(target=asked, args=(address, some, times, faults)) for some in texts]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        row(str(clients), times, faults, peak_mb(process), time.perf_counter() - start)


def shell(place: Path, address: str, rounds: int) -> None:
    """Wall time of the whole command, with a server and without, in turns."""
    attn = [sys.executable, "-m", "attn", "retrieve", "search"]
    commands = {
        "search --server": [*attn, "--server", f"http://{address}", "a bear on grass", "--format", "tsv"],
        "search": [*attn, str(place), "a bear on grass", "--format", "tsv"],
    }
    spent: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            spent[name].append(time.perf_counter() - start)
    print("\n| from the shell | median, s | least, s |\n|---|---|---|")
    for name, seconds in spent.items():
        print(f"| `{name}` | {np.median(seconds):.2f} | {min(seconds):.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--queries", type=int, default=200, help="of each client")
    parser.add_argument("--shell", type=int, default=5, help="runs of the command; 0: none")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "index")
        build(place, arguments.items, arguments.model)
        command = [sys.executable, "-m", "attn", "retrieve", "serve", str(place), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                print(server.stdout.readline(), file=sys.stderr, end="")
                address = server.stdout.readline().strip().removeprefix("http://").rstrip("/")
                measure(address, server.pid, arguments)
                if arguments.shell:
                    shell(place, address, arguments.shell)
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
