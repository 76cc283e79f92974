"""The plain way, for comparison: a thread pool, boto3's own retries, one look-up and one launch per tag.

This is the script one writes first: 16 threads, each looks whether a machine with the tag is there and launches it
if not; boto3 is told to retry patiently (`adaptive`, 20 attempts). It is run as a process of its own:

    python -m benchmarks.baseline --ami ami-… --count 200

and prints one line of JSON: seconds, machines made and found, tags that failed, calls sent.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

THREADS = 16
ATTEMPTS = 20
ALIVE = ["pending", "running", "stopping", "stopped"]


def ensure(ec2: Any, tag: str, ami: str) -> str:
    """Ensure one tag; returns `found` or `made`."""
    there = ec2.describe_instances(
        Filters=[{"Name": "tag:puter", "Values": [tag]}, {"Name": "instance-state-name", "Values": ALIVE}]
    )
    if there["Reservations"]:
        return "found"
    ec2.run_instances(
        ImageId=ami,
        InstanceType="t3.micro",
        MinCount=1,
        MaxCount=1,
        InstanceInitiatedShutdownBehavior="terminate",
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "puter", "Value": tag}]}],
        UserData=f"#!/bin/sh\necho {tag}\n",
    )
    return "made"


def main() -> int:
    """Ensure the tags and print the time that it took."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baseline")
    parser.add_argument("--ami", required=True)
    parser.add_argument("--count", type=int, required=True, help="how many tags: PREFIX0, PREFIX1, …")
    parser.add_argument("--prefix", default="b-")
    parser.add_argument("--one-by-one", action="store_true", help="tell of each tag's seconds, one thread")
    options = parser.parse_args()
    ec2 = boto3.client(
        "ec2",
        config=Config(retries={"mode": "adaptive", "max_attempts": ATTEMPTS}, max_pool_connections=THREADS),
    )
    sent = 0

    def count(**_: Any) -> None:
        nonlocal sent
        sent += 1

    ec2.meta.events.register("before-send.ec2", count)

    def one(tag: str) -> tuple[str, float]:
        began = time.perf_counter()
        try:
            what = ensure(ec2, tag, options.ami)
        except (ClientError, BotoCoreError):
            what = "failed"
        return what, time.perf_counter() - began

    tags = [f"{options.prefix}{number}" for number in range(options.count)]
    began = time.perf_counter()
    if options.one_by_one:
        done = []
        for tag in tags:
            done.append(one(tag))
            time.sleep(0.6)  # an idle account: the bucket of RunInstances refills twice a second
    else:
        with ThreadPoolExecutor(THREADS) as pool:
            done = list(pool.map(one, tags))
    seconds = time.perf_counter() - began
    whats = [what for what, _ in done]
    told = {name: whats.count(name) for name in ("made", "found", "failed")}
    print(json.dumps({"seconds": seconds, **told, "calls": sent, "each": [s for _, s in done]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
