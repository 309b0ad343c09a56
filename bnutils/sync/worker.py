"""What each process does that :mod:`bnutils.sync.processes` has started.

It takes its job out of the folder that it was given, calls it, and leaves there what the
job returned; what it raised goes into a file as well, by ``record`` of PyTorch.
"""

import os
import pickle
import sys
import threading
from pathlib import Path

import cloudpickle
import psutil
from torch.distributed.elastic.multiprocessing.errors import record

from bnutils.sync.processes import kill_descendants


@record
def main(folder: str) -> None:
    """Call the job in the folder, and leave there what it returns."""
    job = pickle.loads(Path(folder, "job").read_bytes())
    result = job()
    # By cloudpickle as well: the result may be of a class of the notebook.
    file = Path(folder, f"{os.environ['RANK']}.result")
    file.write_bytes(cloudpickle.dumps(result))


def end_with_launcher() -> None:
    """Wait until the pipe from the launcher closes, then end, and what we started too."""
    while os.read(0, 1024):
        pass
    kill_descendants(psutil.Process())
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_launcher, daemon=True).start()
    main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    # As the processes of multiprocessing do. To take the interpreter down with all that
    # PyTorch has loaded costs a third of the time of a short job.
    os._exit(0)
