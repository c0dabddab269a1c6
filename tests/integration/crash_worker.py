"""Process to be killed: cycles of save, add, promote, prune and journal, each reported on stdout once it returned.

Run with a folder. Reads lines from stdin; at each one it starts a child that works until it is killed (by fork where there
is one, since loading torch takes longer than the work; elsewhere it is itself the worker).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from experts.checkpoint import load_newest, prune_states, save_state
from experts.journal import Journal
from experts.registry import Registry
from experts.run_lock import RunLock


def report(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def write_model(name: str, number: int, folder: Path) -> None:
    (folder / "model.safetensors").write_text(f"{name} {number} " * 2000)


def work(run_dir: Path) -> None:
    report(f"pid {os.getpid()}")
    with RunLock(run_dir), Journal(run_dir / "journal.db") as journal:
        registry, states = Registry(run_dir), run_dir / "work" / "math"
        state = load_newest(states)
        step = 0 if state is None else state.facts["step"]
        while True:
            step += 1
            save_state(states, tensors={"weight": torch.full((5000,), float(step)), "rng": torch.get_rng_state()}, facts={"step": step})
            report(f"step {step}")
            prune_states(states, 2)
            versions = {name: registry.add(name, lambda folder, name=name, step=step: write_model(name, step, folder), card={"number": step})
                        for name in ("math", "router")}
            registry.promote(versions, reason=f"step {step}")
            report(f"number {step}")
            registry.prune(2)
            report(f"event {journal.append('promoted', node='math', number=step)}")


def main() -> None:
    run_dir = Path(sys.argv[1])
    torch.set_num_threads(1)
    for _ in sys.stdin:
        if not hasattr(os, "fork"):
            work(run_dir)
        child = os.fork()
        if child == 0:
            work(run_dir)
        os.waitpid(child, 0)
        report("dead")


if __name__ == "__main__":
    main()
