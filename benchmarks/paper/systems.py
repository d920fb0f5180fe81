"""Settings of the systems (fine-tuning methods and variants) that the DiffFit paper (arXiv 2304.06648) compares in
Table 1 and Tables 4a to 4d.

Block numbers are those of DiT-XL/2's 28 blocks, counted from 1.
"""

from dataclasses import dataclass

from core.artifact.additions import AdaptFormer, Lora, Prompts
from core.artifact.sites import PRESETS, Method, MethodSites, Sites
from core.artifact.training import PRETRAINING_RATE


@dataclass(frozen=True, kw_only=True)
class System:
    name: str
    """Name as the paper prints it."""
    method: Method
    sites: MethodSites
    rate_ratio: float = 10
    """Learning rate as a multiple of the pre-training learning rate."""
    fid: float | None
    """FID that the paper reports: the mean over `DATASETS` in Table 1, Food-101's in Tables 4a to 4d."""
    fids: tuple[float, ...] = ()
    """In Table 1, the FIDs on each of `DATASETS`."""
    time: float | None = None
    """In Table 1, the training time relative to full fine-tuning that the paper prints."""
    parameters: str | None = None
    """Number of trainable parameters that the paper prints, in millions, with the paper's digits."""
    percent: str | None = None
    """Percentage of full fine-tuning's parameters that the paper prints."""
    recommended: str | None = None
    """Name of a second row for the same fine-tune, with images guided as the service recommends."""

    @property
    def row_names(self) -> list[str]:
        """Names of the system's rows in a table."""
        return [name for name in (self.name, self.recommended) if name is not None]

    @property
    def learning_rate(self) -> float:
        return self.rate_ratio * PRETRAINING_RATE


DATASETS = ("Food-101", "SUN397", "DF-20M mini", "Caltech-101", "CUB-200-2011", "ArtBench-10", "Oxford Flowers",
            "Stanford Cars")  # fmt: skip
"""Data sets of the paper's Table 1."""
TABLE_1 = (
    System(
        name="Full Fine-tuning", method="full", sites=Sites(), rate_ratio=1,
        parameters="673.8", percent="100", fid=16.59,
        fids=(10.46, 7.96, 17.26, 35.25, 5.68, 25.31, 21.05, 9.79), time=1,
        recommended="Full Fine-tuning, recommended guidance",
    ),
    System(
        name="Adapt-Parallel", method="adaptformer", sites=AdaptFormer(placement="parallel"),
        parameters="4.28", percent="0.63", fid=20.17,
        fids=(13.67, 11.47, 22.38, 35.76, 7.73, 38.43, 21.24, 10.73), time=0.47,
    ),
    System(
        name="Adapt-Sequential", method="adaptformer", sites=AdaptFormer(placement="sequential"),
        parameters="4.28", percent="0.63", fid=18.70,
        fids=(11.93, 10.68, 19.01, 34.17, 7.00, 35.04, 21.36, 10.45), time=0.43,
    ),
    System(
        name="BitFit", method="bitfit", sites=Sites(),
        parameters="0.61", percent="0.09", fid=16.82,
        fids=(9.17, 9.11, 17.78, 34.21, 8.81, 24.53, 20.31, 10.64), time=0.45,
    ),
    System(
        name="VPT-Deep", method="vpt", sites=Prompts(),
        parameters="2.81", percent="0.42", fid=26.80,
        fids=(18.47, 14.54, 32.89, 42.78, 17.29, 40.74, 25.59, 22.12), time=0.50,
    ),
    System(
        name="LoRA-R8", method="lora", sites=Lora(rank=8),
        parameters="1.15", percent="0.17", fid=81.25,
        fids=(33.75, 32.53, 120.25, 86.05, 56.03, 80.99, 164.13, 76.24), time=0.63,
    ),
    System(
        name="LoRA-R16", method="lora", sites=Lora(rank=16),
        parameters="2.18", percent="0.32", fid=81.31,
        fids=(34.34, 32.15, 121.51, 86.51, 58.25, 80.72, 161.68, 75.35), time=0.68,
    ),
    System(
        name="DiffFit", method="difffit", sites=PRESETS["paper"],
        parameters="0.83", percent="0.12", fid=15.39,
        fids=(6.96, 8.55, 17.35, 33.84, 5.48, 20.87, 20.18, 9.90), time=0.49,
        recommended="DiffFit, recommended guidance",
    ),
)  # fmt: skip


def _branches(first: int, last: int) -> Sites:
    """Returns sites with factors on the two branches of blocks `first` to `last`, but no factors on query, key, value
    and projection. This fits the parameter counts of Tables 4a and 4b."""
    return Sites(qkv=False, projection=False, first_block=first, last_block=last)


def _depth(name: str, first: int, last: int, parameters: str, fid: float) -> System:
    return System(name=name, method="difffit", sites=_branches(first, last), parameters=parameters, fid=fid)


TABLE_4A = (
    _depth("28→25", 25, 28, "0.747", 10.04),
    _depth("28→22", 22, 28, "0.754", 10.03),
    _depth("28→18", 18, 28, "0.763", 10.33),
    _depth("28→14", 15, 28, "0.770", 10.51),  # the paper's count is that of 14 blocks, not of 15
    _depth("28→11", 11, 28, "0.779", 9.92),
    _depth("28→8", 8, 28, "0.786", 9.28),
    _depth("28→4", 4, 28, "0.796", 8.87),
    _depth("28→1", 1, 28, "0.803", 8.19),
)
TABLE_4B = (
    _depth("1→3", 1, 3, "0.745", 8.29),
    _depth("1→7", 1, 7, "0.754", 7.99),
    _depth("1→11", 1, 11, "0.763", 7.72),
    _depth("1→14", 1, 14, "0.770", 7.61),
    _depth("1→18", 1, 18, "0.779", 7.63),
    _depth("1→21", 1, 21, "0.786", 7.67),
    _depth("1→25", 1, 25, "0.796", 7.85),
    _depth("1→28", 1, 28, "0.803", 8.19),
)


def _location(name: str, fid: float, *, last: int = 28, qkv: bool = False, final: bool = False,
              patch: bool = False, time: bool = False) -> System:  # fmt: skip
    """Returns a system of Table 4c: factors in the blocks, with the additions of one table row. Factors on query, key,
    value and projection come together, as in the paper's Algorithm 3."""
    sites = Sites(qkv=qkv, projection=qkv, final=final, patch=patch, time=time, first_block=1, last_block=last)
    return System(name=name, method="difffit", sites=sites, fid=fid)


TABLE_4C = (
    System(name="NA (BitFit)", method="bitfit", sites=Sites(), fid=9.17),
    _location("+Blocks", 8.19),
    _location("+PatchEmb", 9.05, patch=True),
    _location("+TimeEmb", 8.46, time=True),
    _location("+QKV-Linear", 7.37, qkv=True),
    _location("+Final Layer", 7.49, final=True),
    _location("+ID 1, 2, 5, 6", 7.17, qkv=True, final=True),
    _location("+(1→14 Layers)", 6.96, qkv=True, final=True, last=14),
)
"""Systems of Table 4c. Rows 3 to 6 are each taken to add to row 2: the paper's text describes row 5 as blocks and QKV,
and calls rows 3 and 4 no improvement, whose FID is better than row 1's but worse than row 2's."""

TABLE_4D = tuple(
    System(name=f"{ratio}×", method="difffit", sites=_branches(1, 28), rate_ratio=ratio, fid=fid)
    for ratio, fid in (
        (0.1, 25.85), (0.2, 21.42), (0.5, 17.16), (1, 15.68), (2, 13.84), (5, 10.97), (10, 8.19), (20, 8.30),
    )
)  # fmt: skip
"""Systems of Table 4d. The system at 10× has the FID of "28→1" in Table 4a and of "1→28" in Table 4b, since all three
are the same."""

TABLES: dict[str, tuple[System, ...]] = {
    "1": TABLE_1, "4a": TABLE_4A, "4b": TABLE_4B, "4c": TABLE_4C, "4d": TABLE_4D,
}  # fmt: skip
