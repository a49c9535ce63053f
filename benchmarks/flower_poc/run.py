"""Flower's FedAvg on the proof of concept's splits, as a real deployment on loopback.

Run with the python of Flower's own environment.  One run trains the models of all seeds: each
record that travels holds every seed's model.  It writes one JSON file and leaves no process.
"""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from deployment import APP, Deployment, DeploymentError, running

sys.path.insert(0, str(APP))
from flowerpoc.splits import SITES, parse_seeds, split_file

_POLL_S = 0.25
_ROUND_WITHIN_S = 300.0


def main() -> int:
    """Run and write the result; 0 on success, 1 on failure, 130 when interrupted."""
    arguments = _arguments()
    try:
        result = asyncio.run(_run(arguments))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted; Flower is stopped", file=sys.stderr)
        return 130
    except (DeploymentError, TimeoutError) as error:
        print(f"flower_poc: {error or 'Flower did not answer in time'}", file=sys.stderr)
        return 1
    arguments.out.write_text(json.dumps(result) + "\n", encoding="utf-8")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=Path, required=True, help="folder of seed{S}.npz")
    parser.add_argument("--seeds", type=_seeds, default="0-9", help="for example 0-9 or 0,3,7")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=10, help="of local training in a round")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of Adam")
    parser.add_argument("--proximal-mu", type=float, default=0.0, help="above 0: FedProx")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    arguments.splits = arguments.splits.resolve()
    for seed in parse_seeds(arguments.seeds):
        if not split_file(arguments.splits, seed).is_file():
            parser.error(
                f"{split_file(arguments.splits, seed)} is missing: write it with poc_splits"
            )
    if not 0 < arguments.rounds <= 1000:
        parser.error(f"--rounds must be 1 to 1000, not {arguments.rounds}")
    return arguments


def _seeds(text: str) -> str:
    parse_seeds(text)  # a ValueError becomes argparse's message
    return text


async def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    this = asyncio.current_task()
    if this is not None:  # SIGINT too: a shell starts background jobs with it ignored
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, this.cancel)
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="flower-poc-") as name:
        folder = Path(name)
        async with running(folder, SITES) as deployment:
            await deployment.submit(_settings(arguments, folder / "events.jsonl"))
            events, traffic = await _followed(deployment, folder / "events.jsonl")
    return _result(arguments, events, traffic, time.monotonic() - started_s)


def _settings(arguments: argparse.Namespace, events: Path) -> dict[str, str | int | float]:
    return {
        "splits": str(arguments.splits),
        "events": str(events),
        "seeds": arguments.seeds,
        "rounds": arguments.rounds,
        "epochs": arguments.epochs,
        "batch": arguments.batch,
        "learning-rate": arguments.learning_rate,
        "proximal-mu": arguments.proximal_mu,
        "round-timeout-s": _ROUND_WITHIN_S,
    }


async def _followed(
    deployment: Deployment, path: Path
) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
    """Print each round as it ends; return all events and the relay's counts at each."""
    events: list[dict[str, Any]] = []
    traffic: list[tuple[int, int]] = []
    heard_s = time.monotonic()
    while not events or events[-1]["event"] == "round":
        await asyncio.sleep(_POLL_S)
        deployment.check_alive()
        if time.monotonic() - heard_s > _ROUND_WITHIN_S:
            reason = f"no round ended within {_ROUND_WITHIN_S:g} s"
            raise DeploymentError(f"{reason}: ...{deployment.log_end('superlink')}")
        for event in _read_events(path)[len(events) :]:
            events.append(event)
            traffic.append((deployment.relay.up_bytes, deployment.relay.down_bytes))
            heard_s = time.monotonic()
            if events[-1]["event"] == "round":
                values = events[-1]["pr_auc"]
                mean = sum(values) / len(values)
                print(f"round {events[-1]['round']:3d}  PR-AUC {mean:.4f}", flush=True)
    if events[-1]["event"] == "failed":
        raise DeploymentError(events[-1]["reason"])
    return events, traffic


def _read_events(path: Path) -> list[dict[str, Any]]:
    """Read the whole lines that the server app has written so far."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _result(
    arguments: argparse.Namespace,
    events: list[dict[str, Any]],
    traffic: list[tuple[int, int]],
    wall_s: float,
) -> dict[str, Any]:
    rounds = [event for event in events if event["event"] == "round"]
    # Round 0 is the judgement before training, so the traffic from it to the last is training's.
    updates = len(SITES) * (len(rounds) - 1)
    training_s = rounds[-1]["monotonic_s"] - rounds[0]["monotonic_s"]
    up, down = (last - first for first, last in zip(traffic[0], traffic[-1], strict=True))
    models = len(parse_seeds(arguments.seeds))
    return {
        "strategy": "FedProx" if arguments.proximal_mu else "FedAvg",
        "recipe": {
            key: getattr(arguments, key)
            for key in ("rounds", "epochs", "batch", "learning_rate", "proximal_mu")
        },
        "seeds": events[-1]["seeds"],
        "pr_auc_by_round": {str(event["round"]): event["pr_auc"] for event in rounds},
        "updates": updates,
        "models_per_update": models,
        "updates_per_s": updates / training_s,
        "bytes_up_per_update": up / updates,
        "bytes_up_per_model": up / updates / models,
        "bytes_down_per_update": down / updates,
        "training_s": training_s,
        "wall_s": wall_s,
    }


if __name__ == "__main__":
    sys.exit(main())
