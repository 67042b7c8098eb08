#!/usr/bin/env python3
"""Verifies the chain of statements in a folder, with the standard library of Python 3 only.

    aws s3 sync s3://BUCKET/statements/ statements/
    python3 examples/verify_statements.py statements/ [--head SHA256]

Each statement carries the SHA-256 of the one before, so that a changed byte in any but the newest is
found here. The newest is found changed by --head: its hash, from the relay's log line `wrote
statement` or from the table's item `#statement`. Exits with 1 if anything does not hold.
"""

import datetime
import hashlib
import json
import pathlib
import sys

STATES = ("delivered", "dead", "archived", "discarded", "erased", "waiting")


def problems_of(key, statement):
    """The sums that do not hold inside one statement."""
    if statement["accounted"] + statement["unaccounted"] != statement["sent"]:
        yield f"{key}: accounted and unaccounted are not what was sent"
    genesys = statement["genesys"]
    for name, total in (
        ("byStatus", "sent"),
        ("unaccountedByStatus", "unaccounted"),
        ("accountedByState", "accounted"),
    ):
        if sum(genesys[name].values()) != statement[total]:
            yield f"{key}: genesys.{name} does not add up to {total}"
    hours = statement["relay"]["hours"]
    for hour, counts in hours.items():
        if sum(counts[state] for state in STATES) != counts["accepted"]:
            yield f"{key}: the relay's book does not balance at {hour}"
    total = statement["relay"]["total"]
    for name, count in total.items():
        if sum(counts[name] for counts in hours.values()) != count:
            yield f"{key}: relay.total.{name} is not the sum of the hours"


def verify(folder, head):
    """Yields what does not hold, and at last nothing; prints what does."""
    found = {}
    for path in sorted(folder.rglob("*.json")):
        data = path.read_bytes()
        key = "statements/" + path.name
        try:
            statement = json.loads(data)
            place = (statement["sequence"], statement["previous"])
            yield from problems_of(key, statement)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            yield f"{key}: cannot be read: {error!r}"
            continue
        found[key] = (place, hashlib.sha256(data).hexdigest(), statement)
    chain = sorted(found, key=lambda key: found[key][0][0])
    before = None
    for number, key in enumerate(chain, 1):
        (sequence, previous), _, _ = found[key]
        if sequence != number:
            yield f"{key}: has number {sequence}, where {number} is expected: one is missing or there twice"
            return
        expected = {"key": before, "sha256": found[before][1]} if before else None
        if previous != expected:
            yield f"{key}: carries {previous} as the one before, which is {expected}"
        before = key
    if not before:
        yield "there is no statement"
        return
    newest = found[before][1]
    if head and newest != head:
        yield f"{before}: has the hash {newest}, not {head}"
    days = {datetime.date.fromisoformat(statement["day"]) for _, _, statement in found.values()}
    day = min(days)
    while day <= max(days):
        if day not in days:
            print(f"note: {day} has no statement")
        day += datetime.timedelta(days=1)
    sums = [sum(found[key][2][name] for key in chain) for name in ("sent", "unaccounted")]
    unread = sum(found[key][2]["genesys"]["unread"] for key in chain)
    print(f"{len(chain)} statements from {min(days)} to {max(days)}: {sums[0]} sent, {sums[1]} unaccounted, {unread} unread")
    print(f"head {before} {newest}" + ("" if head else " (compare it with the log: --head)"))


def main(arguments):
    if len(arguments) not in (1, 3) or (len(arguments) == 3 and arguments[1] != "--head"):
        print(__doc__, file=sys.stderr)
        return 2
    head = arguments[2] if len(arguments) == 3 else None
    problems = list(verify(pathlib.Path(arguments[0]), head))
    for problem in problems:
        print(f"FAILED {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
