"""Nearest neighbours: copies have distance 0, and the sheet shows each picture with its neighbours."""

import numpy as np
import pytest
import torch
from torch import Tensor

from core.ml.evaluation.neighbours import nearest, sheet


def pictures(count: int, seed: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_copy_has_distance_zero() -> None:
    references = pictures(40, 0)
    neighbours = nearest(references[[7, 31]], references, 3)
    assert neighbours.places[:, 0].tolist() == [7, 31]
    assert neighbours.distances[:, 0].tolist() == [0.0, 0.0]
    assert (neighbours.distances.diff(dim=1) > 0).all()


def test_distances_are_root_mean_squares() -> None:
    neighbours = nearest(torch.full((1, 3, 2, 2), 10), torch.tensor([0, 13, 30]).view(3, 1, 1, 1).expand(3, 3, 2, 2), 3)
    assert neighbours.places.tolist() == [[1, 0, 2]]
    assert neighbours.distances[0].tolist() == pytest.approx([3, 10, 20])


def test_more_neighbours_than_references_are_rejected() -> None:
    with pytest.raises(ValueError, match="5 neighbours of 4 references"):
        nearest(pictures(1, 0), pictures(4, 1), 5)


def test_sheet_shows_neighbours_next_to_their_picture() -> None:
    references, places = pictures(10, 2), torch.tensor([[3, 4], [5, 6], [7, 8]])
    whole = sheet(pictures(3, 3), references, places, columns=2, zoom=2)
    assert whole.size == (2 * (3 * 18 + 16), 2 * 18)
    first = whole.crop((18 + 8, 0, 18 + 8 + 16, 16)).resize((8, 8), 0)
    assert torch.equal(torch.from_numpy(np.array(first)), references[3].permute(1, 2, 0))
