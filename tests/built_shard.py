"Decode a shard of a folder, and die at a chosen moment by a real SIGKILL"

from killed_run import kill_while_writing

from simpsons_cnn.data import shards
from simpsons_cnn.data.folders import ImageFiles


def job(folder, number, count, moment=None):
    "`moment`: a kind of moment and when"
    kill_while_writing(*(moment or ("never", 0)))
    shards._FILE_BYTES = shards._HEADER_BYTES + 5 * 3 * 16**2  # five pictures
    shards.build_shard(ImageFiles.scan(folder), number, count, size=16)
