"""Jobs split by blocks of images: which block a job works on, and its rows put together as one job would write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file

from purification.blocks import WHOLE, Block
from purification.tensor_files import read_tensors
from workflow_scripts.job import replacing, write_rows


def block_of(wildcards: Any) -> Block:
    """The block that a job works on, named "<number>_of_<count>"; all images where there is no such wildcard.

    Raises ValueError for a number that is not from 1 to the count.
    """
    if "part" not in wildcards.keys():  # noqa: SIM118
        return WHOLE
    number, count = map(int, wildcards.part.split("_of_"))
    if not 1 <= number <= count:
        raise ValueError(f"expected a block from 1 to {count}, got {number} — number blocks from 1")
    return Block(number, count)


def parts_of(snakemake: Any, number: int = 0) -> list[Path]:
    """Files of all parts, in the order of their images, of one output; the input lists part by part."""
    return [Path(path) for path in snakemake.input.parts[number :: len(snakemake.output)]]


def join_rows(parts: Sequence[Path], output: str | Path, by: Sequence[str]) -> None:
    """Rows in the order of one job: first by the groups that columns `by` tell apart, then by image.

    The first part has all groups in their order; a part whose images a measurement leaves out has no rows.
    """
    tables = [table for path in parts if len(table := pd.read_parquet(path))]
    rows = pd.concat(tables, ignore_index=True)
    if by:
        group = rows.groupby(list(by), sort=False, dropna=False).ngroup()
        rows = rows.loc[group.sort_values(kind="stable").index].reset_index(drop=True)
    write_rows(rows, output)


def join_tensors(parts: Sequence[Path], output: str | Path) -> None:
    """Every tensor of the first part, with its images of the other parts behind."""
    tensors = [read_tensors(path) for path in parts]
    joined = {name: torch.cat([each[name] for each in tensors if name in each]) for name in tensors[0]}
    with replacing(output) as temporary:
        save_file(joined, temporary)
