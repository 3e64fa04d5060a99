"""Name the pictures of a shard, and die at a chosen moment.

python tests/killed_shard.py reads jobs as JSON, one a line:
{"args": arguments of `ShardJob`, "shard": "1/2", "moment": [KIND, WHEN]}

Each job is a process of its own that really gets SIGKILL; the answer to each is its exit code.
"""

import json
import os
import sys
from pathlib import Path

from killed_run import half, kill_at_call

from simpsons_cnn.inference import shards
from simpsons_cnn.inference.classifier import Classifier


def job(args, shard, moment):
    kind, when = moment or ("never", 0)
    if kind == "half written":
        kill_at_call("fsync", when, half)
    if kind == "before a rename":
        kill_at_call("replace", when, lambda *_: None)
    if kind == "after a rename":
        kill_at_call("replace", when, None)
    shards._GROUP = 4
    model, folder, target = map(Path, args)
    shards.ShardJob(model, folder, target, shards.Shard.parse(shard)).run(
        Classifier.load(model, "cpu")
    )


if __name__ == "__main__":
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                job(**json.loads(line))
                code = 0
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
