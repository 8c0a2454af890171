"""One compute instance as a process: `python -m engine.instance --help`."""

from __future__ import annotations

import argparse
from pathlib import Path


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="engine.instance", description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--number", type=int, required=True, help="unique in the cluster, from 1")
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--az", required=True)
    parser.add_argument("--listen", required=True, help="gRPC host:port")
    parser.add_argument("--control", required=True, help="the control plane's host:port")
    parser.add_argument(
        "--socket", type=Path, required=True, help="where the endpoint hands clients"
    )
    return parser.parse_args()
