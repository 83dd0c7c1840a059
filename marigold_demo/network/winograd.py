"""3x3 convolutions with a quarter of the multiplications, band by band. Knows nothing of networks.

Winograd's minimal filtering F(4x4, 3x3) as in Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", CVPR 2016, equation 12: a tile of 4 x 4 results costs 36 multiplications instead of 144,

    y = A^T [(G g G^T) * (B^T d B)] A,

with the filter g [3, 3], the tile d [6, 6] of the map, and B, G, A as they stand there. For all channels the
product in the middle is a matrix product for each of the 36 places. In float32 the result is exact to about
1e-5 of its range; in 16 bits too much would be lost.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

TILES = 192  # at a time: their maps stay in the caches, their matrix products are large enough (measured)
SIDE, SEEN = 4, 6  # results and pixels of a tile, along each side

_G = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]


class Winograd:
    """A 3x3 convolution of maps of one size, stride 1, zeros beyond the edge, band by band.

    Attributes:
        rows: Of a band.
        seen: float32 [rows + 2, 4, W' / 4 + 1, C]; whoever calls writes a band of the map here by way of
            `columns`, with the row above and the row below it. W' is the width in whole tiles; columns that
            are four apart lie side by side, so that all tiles are worked on in long runs.
        columns: For each fourth of the columns of the map, where it begins and the part of `seen` for it
            [rows + 2, n, C].
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, height: int, width: int) -> None:
        """Transform the filters.

        Args:
            weight: Filters, float32 [C', C, 3, 3].
            bias: float32 [C'].
            height: Of the map.
            width: Of the map.
        """
        outputs, inputs = weight.shape[:2]
        across = -(-width // SIDE)  # tiles
        down = min(max(1, TILES // across), -(-height // SIDE))
        self._across = -(-across // -(-across // TILES))  # tiles in a block, all blocks of a band about alike
        self.rows = SIDE * down
        place = torch.kron(*[torch.tensor(_G, device=weight.device)] * 2)  # [36, 9]
        flat = weight.permute(0, 2, 3, 1).reshape(outputs, 9, inputs)  # [C', 9, C]
        self._filters = torch.matmul(place, flat).permute(1, 2, 0)  # [36, C, C']
        self._bias = bias

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, device=weight.device)

        self.seen = empty(self.rows + 2, SIDE, across + 1, inputs).zero_()  # column 0 is left of the map
        self.columns = [
            (left, self.seen[:, (left + 1) % SIDE, (left + 1) // SIDE :][:, : -(-(width - left) // SIDE)])
            for left in range(min(SIDE, width))
        ]
        self._out = empty(self.rows, SIDE * across, outputs)
        block = down * self._across
        self._half = empty(SEEN * SIDE * (block + down) * inputs)
        self._tiles, self._products = empty(SEEN**2 * block * inputs), empty(SEEN**2 * block * outputs)
        self._half_out = empty(SIDE * SEEN * block * outputs)
        largest = max(self._half.numel(), self._tiles.numel(), self._products.numel()) // SEEN
        self._scratch = empty(2, largest)

    def convolve(self, out: Tensor) -> None:
        """Convolve the band in `seen` to out [n, W, C'], its first n rows, contiguous."""
        whole = self._out if out.shape != self._out.shape else out
        for left in range(0, self.seen.shape[2] - 1, self._across):
            right = min(left + self._across, self.seen.shape[2] - 1)
            self._convolve(self.seen[:, :, left : right + 1], whole[:, SIDE * left : SIDE * right])
        if whole is not out:
            out.copy_(whole[: out.shape[0], : out.shape[1]])

    def _convolve(self, seen: Tensor, out: Tensor) -> None:
        """Convolve a block of tiles."""
        inputs, outputs = seen.shape[3], out.shape[2]
        down, across = out.shape[0] // SIDE, out.shape[1] // SIDE
        half = _shaped(self._half, SEEN, down, SIDE, across + 1, inputs)  # B^T d
        tiles = _shaped(self._tiles, SEEN, SEEN, down, across, inputs)  # B^T d B
        products = _shaped(self._products, SEEN, SEEN, down, across, outputs)
        half_out = _shaped(self._half_out, SIDE, SEEN, down, across, outputs)  # A^T [...]
        rows = [seen[k : k + SIDE * (down - 1) + 1 : SIDE] for k in range(SEEN)]
        self._seen_by_filters(rows, half.unbind(0))  # [down, 4, across + 1, C] each
        columns = [half[:, :, k % SIDE, k // SIDE : k // SIDE + across] for k in range(SEEN)]
        self._seen_by_filters(columns, tiles.unbind(1))  # [6, down, across, C] each
        places = SEEN * SEEN
        torch.bmm(tiles.view(places, -1, inputs), self._filters, out=products.view(places, -1, outputs))
        products[1, 1] += self._bias  # this place goes into each of the 4 x 4 results once
        self._results(products.unbind(0), half_out.unbind(0))
        split = out.view(down, SIDE, across, SIDE, outputs).permute(3, 1, 0, 2, 4)  # [4, 4, down, across, C']
        self._results(half_out.unbind(1), split.unbind(0))

    def _seen_by_filters(self, d: Sequence[Tensor], out: Sequence[Tensor]) -> None:
        """Multiply six slices by B^T."""
        a, b = self._temporary(d[0])
        torch.sub(d[4], d[2], alpha=4, out=a)
        torch.sub(d[3], d[1], alpha=4, out=b)
        torch.add(a, b, out=out[1])
        torch.sub(a, b, out=out[2])
        torch.sub(d[4], d[2], out=a)
        torch.sub(d[3], d[1], out=b)
        torch.add(a, b, alpha=2, out=out[3])
        torch.sub(a, b, alpha=2, out=out[4])
        torch.sub(d[0], d[2], out=out[0])
        torch.add(a, out[0], alpha=4, out=out[0])
        torch.sub(d[5], d[3], out=out[5])
        torch.sub(out[5], b, alpha=4, out=out[5])

    def _results(self, m: Sequence[Tensor], out: Sequence[Tensor]) -> None:
        """Multiply six slices by A^T, four are left."""
        a, b = self._temporary(m[0])
        torch.add(m[1], m[2], out=a)
        torch.add(m[3], m[4], out=b)
        torch.add(a, b, alpha=4, out=out[2])
        torch.add(a.add_(b), m[0], out=out[0])
        torch.sub(m[1], m[2], out=a)
        torch.sub(m[3], m[4], out=b)
        torch.add(a, b, alpha=2, out=out[1])
        torch.add(a.add_(b, alpha=8), m[5], out=out[3])

    def _temporary(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return _shaped(self._scratch[0], *like.shape), _shaped(self._scratch[1], *like.shape)


def _shaped(buffer: Tensor, *shape: int) -> Tensor:
    return buffer[: math.prod(shape)].view(shape)
