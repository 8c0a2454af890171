"""One cluster's archiver as a process: `python -m cluster.archiver --help`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from cluster.archiver.keeper import Keeper, serve
from cluster.local.folder import Folder
from engine.net.process import run_node
from engine.net.real import real_runtime
from engine.pulse import Pulse


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cluster.archiver", description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--data", type=Path, required=True, help="the installation's data folder")
    parser.add_argument("--cluster", required=True)
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    folder = Folder.at(arguments.data)

    def keeper() -> Keeper:  # a running loop is needed
        runtime = real_runtime(None, name=arguments.name)
        return Keeper(runtime, folder, arguments.cluster)

    pulse = Pulse.of_environment(os.environ)
    run_node(lambda stop: serve(keeper(), stop), name=arguments.name, pulse=pulse)


if __name__ == "__main__":
    main()
