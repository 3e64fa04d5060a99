"Name the pictures of a shard, and die at a chosen moment by a real SIGKILL"

from pathlib import Path

from killed_run import kill_while_writing

from simpsons_cnn.inference import shards
from simpsons_cnn.inference.classifier import Classifier


def job(args, shard, moment=None):
    "`args`: model, folder and target of a `ShardJob`; `moment`: a kind of moment and when"
    kill_while_writing(*(moment or ("never", 0)))
    shards._GROUP = 4
    model, folder, target = map(Path, args)
    shards.ShardJob(model, folder, target, shards.Shard.parse(shard)).run(
        Classifier.load(model, "cpu")
    )
