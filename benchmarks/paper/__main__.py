"""`python -m benchmarks.paper NAME`: runs one of the DiffFit paper's experiments; `NAME --help` lists its options."""

import argparse
from collections.abc import Sequence

from benchmarks.paper import controlnet, figure6, highres, theorem2
from benchmarks.paper.comparison import COMPARISONS

EXPERIMENTS = {
    "theorem2": ("error of the recovered factors against the bound of Theorem 2", theorem2.main),
    "highres": (highres.FIGURE.title, highres.main),
    "controlnet": (controlnet.TITLE, controlnet.main),
    "figure6": (figure6.FIGURE.title, figure6.main),
    **{name: (comparison.title, comparison.main) for name, comparison in COMPARISONS.items()},
}
"""Title and main function of each experiment, by its name."""


def main(arguments: Sequence[str] | None = None) -> None:
    lines = "\n".join(f"  {name:10} {summary}" for name, (summary, _) in EXPERIMENTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper",
        description=f"{__doc__}\n\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of the experiment")
    asked = parser.parse_args(arguments)
    _, run = EXPERIMENTS[asked.experiment]
    run(asked.options)


if __name__ == "__main__":
    main()
