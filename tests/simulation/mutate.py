#!/usr/bin/env python3
"""Breaks the relay on purpose, one patch of `mutations/` after the other, and writes down which seed of the simulation notices.

    python3 tests/simulation/mutate.py [NAME…]

Works on a copy of what is committed, under `target/mutations`; needs git. Without names it does all, and writes the table in
`mutations/README.md` anew. Exits 1 when a mutation is not caught.
"""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests/simulation/mutations"
COPY = ROOT / "target/mutations"

HEAD = """# What the simulation notices

Each patch here breaks the relay on purpose. `python3 tests/simulation/mutate.py` applies one after the other to a copy of what
is committed, runs the simulation, and writes this table: the first seed that notices, and what it says. To see one happen:

```sh
git apply tests/simulation/mutations/no-backoff.patch
GENESYS_RELAY_SEED=… cargo test --test simulation nothing_is_lost
git checkout src
```

A test holds the patches to the code: each still applies, and each has its line.

| mutation | what is broken | seed | what the law says |
|---|---|---|---|
"""


def git(*arguments: str, cwd: pathlib.Path = COPY) -> None:
    subprocess.run(["git", *arguments], cwd=cwd, check=True, stdout=subprocess.DEVNULL)


def prepare() -> None:
    """Makes the copy show what is committed."""
    if not (COPY / ".git").exists():
        git("worktree", "add", "--force", "--detach", str(COPY), "HEAD", cwd=ROOT)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    git("reset", "--hard", "--quiet", head.strip())


def notice(patch: pathlib.Path) -> tuple[str, str] | None:
    """The first seed that notices the mutation, and what it says."""
    git("apply", str(patch))
    # Cargo looks at times of change, which are those of the copy; what it has compiled of others serves here too.
    environment = {"GENESYS_RELAY_SEEDS": "2000"} | os.environ | {"CARGO_TARGET_DIR": str(ROOT / "target")}
    # Of the breaker, the tests of its timeliness say more, and sooner, than many seeds.
    found = None
    for tests in ["nothing_is_lost", "timeliness"]:
        command = ["cargo", "test", "--quiet", "--workspace", "--test", "simulation", tests]
        run = subprocess.run(command, cwd=COPY, env=environment, capture_output=True, text=True)
        says = run.stdout + run.stderr
        if "could not compile" in says:
            sys.exit(f"{patch.name} does not compile:\n{says}")
        seeds = re.findall(r"^seed (\d+): (.*?)(?: \(after [\d.]+ s\))?$", says, re.MULTILINE)
        failed = re.findall(r"^    timeliness::(\w+)$", says, re.MULTILINE)
        if seeds or failed:
            found = min(seeds, key=lambda seed: int(seed[0])) if seeds else ("any", f"{sorted(failed)[0]} fails")
            break
    git("apply", "--reverse", str(patch))
    return found


def main() -> None:
    patches = sorted(FOLDER.glob("*.patch"))
    chosen = [patch for patch in patches if not sys.argv[1:] or patch.stem in sys.argv[1:]]
    prepare()
    lines, missed = [], []
    for patch in chosen:
        what = patch.read_text().split("\n", 1)[0]
        seed, says = notice(patch) or ("none", "nothing")
        # Ids say nothing to a reader.
        says = re.sub(r"(?<![\w-])[\w-]{43}(?![\w-])", "an event", says).replace("|", "\\|")
        lines.append(f"| {patch.stem} | {what} | {seed} | {says} |")
        print(lines[-1], flush=True)
        if seed == "none":
            missed.append(patch.stem)
    if not sys.argv[1:]:
        (FOLDER / "README.md").write_text(HEAD + "\n".join(lines) + "\n")
    if missed:
        sys.exit(f"not caught: {', '.join(missed)}")


main()
