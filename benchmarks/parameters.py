"""How many parameters train? Exact counts on DiT-XL/2 with 101 classes: `python -m benchmarks.parameters`.

The paper (DiffFit, arXiv 2304.06648, Table 1) rounds; no weights are needed to count.
"""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from core.artifact.base import BaseConfig
from core.artifact.sites import PRESETS, Method, Sites, count, trainable_shapes

CLASSES = 101
ROWS: tuple[tuple[str, Method, Sites, str], ...] = (
    ("full", "full", Sites(), "673.8 M"),
    ("bitfit", "bitfit", Sites(), "0.61 M"),
    ("difffit literal", "difffit", PRESETS["literal"], ""),
    ("difffit paper", "difffit", PRESETS["paper"], "0.83 M"),
)


def main() -> None:
    options = _options()
    config = BaseConfig()
    counts = {name: count(trainable_shapes(config, method, sites, CLASSES)) for name, method, sites, _ in ROWS}
    table = Table("method", "trainable parameters", "of full", "paper", title=f"DiT-XL/2, {CLASSES} classes")
    for name, _, _, paper in ROWS:
        table.add_row(name, f"{counts[name]:,}", f"{counts[name] / counts['full']:.3%}", paper)
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps({"classes": CLASSES, "counts": counts}, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the counts here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
