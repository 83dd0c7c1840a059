"""What others published: AbsRel and delta1 in percent, zero-shot, on the five data sets of Marigold's paper.

The rows of the paper's own table (Ke et al., CVPR 2024, table 1) are marked. The others are from the tables
of Garcia et al., "Fine-Tuning Image-Conditional Diffusion Models is Easier than You Think" and of He et al.,
"Lotus". Of Marigold v1-1, figures on NYUv2 alone were found.
"""

from dataclasses import dataclass

DATA_SETS = {"NYUv2": 654, "KITTI": 652, "ETH3D": 454, "ScanNet": 800, "DIODE": 771}  # and their images


@dataclass(frozen=True)
class Published:
    """One row: AbsRel and delta1 in percent per data set, aligned in depth unless it says otherwise.

    Attributes:
        method: Its name.
        figures: In the order of DATA_SETS; None where nothing was published.
        in_paper: Whether it is a row of the table of Ke et al.
        alignment: In what the predictions were aligned; "not said" of networks that predict disparity in a
            table of others.
    """

    method: str
    figures: tuple[tuple[float, float] | None, ...]
    in_paper: bool = False
    alignment: str = "depth"

    def of(self, source: str) -> tuple[float, float] | None:
        """Return AbsRel and delta1 in percent for a data set, None for any other source."""
        return self.figures[list(DATA_SETS).index(source)] if source in DATA_SETS else None


PUBLISHED = (
    Published(
        "DiverseDepth", ((11.7, 87.5), (19.0, 70.4), (22.8, 69.4), (10.9, 88.2), (37.6, 63.1)), in_paper=True
    ),
    Published(
        "MiDaS",
        ((11.1, 88.5), (23.6, 63.0), (18.4, 75.2), (12.1, 84.6), (33.2, 71.5)),
        in_paper=True,
        alignment="not said",
    ),
    Published("LeReS", ((9.0, 91.6), (14.9, 78.4), (17.1, 77.7), (9.1, 91.7), (27.1, 76.6)), in_paper=True),
    Published(
        "Omnidata", ((7.4, 94.5), (14.9, 83.5), (16.6, 77.8), (7.5, 93.6), (33.9, 74.2)), in_paper=True
    ),
    Published("HDN", ((6.9, 94.8), (11.5, 86.7), (12.1, 83.3), (8.0, 93.9), (24.6, 78.0)), in_paper=True),
    Published(
        "DPT",
        ((9.8, 90.3), (10.0, 90.1), (7.8, 94.6), (8.2, 93.4), (18.2, 75.8)),
        in_paper=True,
        alignment="not said",
    ),
    Published(
        "Marigold v1-0, 50 x 1",
        ((6.0, 95.9), (10.5, 90.4), (7.1, 95.1), (6.9, 94.5), (31.0, 77.2)),
        in_paper=True,
    ),
    Published(
        "Marigold v1-0, 50 x 10",
        ((5.5, 96.4), (9.9, 91.6), (6.5, 96.0), (6.4, 95.1), (30.8, 77.3)),
        in_paper=True,
    ),
    Published("Marigold LCM, 1 x 1", ((6.5, 95.4), (10.7, 89.9), (7.5, 94.5), (7.6, 93.8), (31.5, 76.3))),
    Published("Marigold v1-1, 1 x 1", ((5.9, 96.1), None, None, None, None)),
    Published("Marigold v1-1, 4 x 10", ((5.5, 96.4), None, None, None, None)),
    Published("Marigold + E2E-FT", ((5.2, 96.6), (9.6, 91.9), (6.2, 95.9), (5.8, 96.2), (30.2, 77.9))),
    Published(
        "Lotus-D", ((5.1, 97.2), (8.1, 93.1), (6.1, 97.0), (5.5, 96.5), (22.8, 73.8)), alignment="disparity"
    ),
    Published(
        "Depth Anything V2",
        ((4.5, 97.9), (7.4, 94.6), (13.1, 86.5), (4.2, 97.8), (26.5, 73.4)),
        alignment="disparity",
    ),
)
