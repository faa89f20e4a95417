"""Published figures as data. Each was read in the source that its table names.

Categories have the names of Occupancy Networks. Pix2Vox calls three of them aeroplane, speaker and
watercraft. The two test on different splits of ShapeNet and against different ground truth.
"""

from dataclasses import dataclass

_NAMES = (
    "airplane bench cabinet car chair display lamp loudspeaker rifle sofa table telephone vessel"
)
SHAPENET = tuple(_NAMES.split())
# Names in Pix2Vox, and the WordNet numbers that ShapeNet uses as folder names.
_ALIASES = {"aeroplane": "airplane", "speaker": "loudspeaker", "watercraft": "vessel"} | dict(
    zip(
        "02691156 02828884 02933112 02958343 03001627 03211117 03636649 03691459 04090263 04256520 "
        "04379243 04401088 04530566".split(),
        SHAPENET,
        strict=True,
    )
)


@dataclass(frozen=True)
class PublishedTable:
    """The published figures of one method.

    Args:
        method: name of the method, with what distinguishes it, e.g. the number of views.
        protocol: key of `PROTOCOLS`.
        source: paper, repository or issue that the figures were read in.
        dataset: dataset and split, a text for people.
        splits: division of ShapeNet, a value of `Manifest.splits`.
        metrics: {metric: {category: value}}. The mean of the protocol has the key "mean".
        setting: other conditions, e.g. the threshold.
        split: split of that division.
        num_views: number of views per shape.
        categories: categories that the mean covers.
    """

    method: str
    protocol: str
    source: str
    dataset: str
    splits: str
    metrics: dict[str, dict[str, float]]
    setting: str = ""
    split: str = "test"
    num_views: int = 1
    categories: tuple[str, ...] = SHAPENET


def shapenet_category(name: str) -> str | None:
    """Returns the name of a category in the tables, or None if they lack it."""
    name = _ALIASES.get(name, name)
    return name if name in SHAPENET else None


def _by_category(text: str, mean: float | None = None) -> dict[str, float]:
    """Parses figures in the order of SHAPENET. A dash means that there is none."""
    pairs = zip(SHAPENET, text.split(), strict=True)
    values = {name: float(value) for name, value in pairs if value != "-"}
    return values if mean is None else values | {"mean": mean}


_ONET_TEST = "ShapeNet, 13 categories, test split of Occupancy Networks, view 000"
_ONET_SETTING = "threshold 0.2, meshes at 128^3"
_ONET_PAPER = "table of Mescheder et al. 2019, as the ViTOcNet report quotes it"


def _baseline(method: str, **means: float) -> PublishedTable:
    metrics = {name: {"mean": value} for name, value in means.items()}
    return PublishedTable(method, "onet", _ONET_PAPER, _ONET_TEST, "onet", metrics)


_ONET_TABLES = [
    PublishedTable(
        method="ONet (paper)",
        protocol="onet",
        source=_ONET_PAPER,
        dataset=_ONET_TEST,
        splits="onet",
        setting=_ONET_SETTING,
        metrics={
            "iou": _by_category(
                ".571 .485 .733 .737 .501 .471 .371 .647 .474 .680 .506 .720 .530", 0.571
            ),
            "chamfer_l1_tenth_edge": _by_category(
                ".147 .155 .167 .159 .228 .278 .479 .300 .141 .194 .189 .140 .218", 0.215
            ),
            "normal_consistency": _by_category(
                ".840 .813 .879 .852 .823 .854 .731 .832 .766 .863 .858 .935 .794", 0.834
            ),
        },
    ),
    PublishedTable(
        method="ONet (released model)",
        protocol="onet",
        source="table in the README of autonomousvision/occupancy_networks",
        dataset=_ONET_TEST,
        splits="onet",
        setting=f"{_ONET_SETTING}; trained without augmentation",
        metrics={
            "iou": _by_category(
                ".591 .492 .750 .746 .530 .518 .400 .677 .480 .693 .542 .746 .547", 0.593
            ),
            "chamfer_l1_tenth_edge": _by_category(
                ".134 .150 .153 .149 .206 .258 .368 .266 .143 .181 .182 .127 .201", 0.194
            ),
            "normal_consistency": _by_category(
                ".845 .814 .884 .852 .829 .857 .751 .842 .783 .867 .860 .939 .797", 0.840
            ),
        },
    ),
    PublishedTable(
        method="ONet (released model, run by a user)",
        protocol="onet",
        source="autonomousvision/occupancy_networks issue 86",
        dataset=_ONET_TEST,
        splits="onet",
        setting="threshold 0.2, network queried at the points, without meshes",
        metrics={
            "iou_points": _by_category(".598 .498 .752 .749 .535 .559 .401 .678 .480 - - - -"),
            "iou_voxels": _by_category(".475 .522 .747 .784 .556 .594 .378 .713 .522 - - - -"),
        },
    ),
    PublishedTable(
        method="ViTOcNet",
        protocol="onet",
        source="report of Kudo510/ViTOcNet",
        dataset=_ONET_TEST,
        splits="onet",
        setting="threshold 0.2",
        metrics={
            "iou": _by_category(
                ".310 .117 .549 .582 .311 .296 .189 .511 .255 .401 .222 .515 .289", 0.350
            ),
            "chamfer_l1_tenth_edge": {"mean": 0.467},
            "normal_consistency": {"mean": 0.686},
        },
    ),
    _baseline("3D-R2N2", iou=0.493, chamfer_l1_tenth_edge=0.278, normal_consistency=0.695),
    _baseline("PSGN", chamfer_l1_tenth_edge=0.215),
    _baseline("Pixel2Mesh", iou=0.480, chamfer_l1_tenth_edge=0.216, normal_consistency=0.772),
    _baseline("AtlasNet", chamfer_l1_tenth_edge=0.175, normal_consistency=0.811),
]

_PIX2VOX_TEST = "ShapeNet, 13 categories, test split of 3D-R2N2, 32^3"
_MULTI_VIEW = "READMEs of GaryZhu1996/UMIFormer and LiyingCV/Long-Range-Grouping-Transformer"
VIEW_COUNTS = (1, 2, 3, 4, 5, 8, 12, 16, 20)
# The metrics in the columns of _BY_VIEWS, and their protocols.
_COLUMNS = {"iou": "pix2vox", "f_score_1_percent": "what3d"}
_BY_VIEWS = {
    "3D-R2N2": (
        ".560 .603 .617 .625 .634 .635 .636 .636 .636",
        ".351 .368 .372 .378 .382 .383 .382 .382 .383",
    ),
    "AttSets": (
        ".642 .662 .670 .675 .677 .685 .688 .692 .693",
        ".395 .418 .426 .430 .432 .444 .445 .447 .448",
    ),
    "Pix2Vox++/A": (
        ".670 .695 .704 .708 .711 .715 .717 .718 .719",
        ".436 .452 .455 .457 .458 .459 .460 .461 .462",
    ),
    "GARNet": (
        ".673 .705 .716 .722 .726 .731 .734 .736 .737",
        ".418 .455 .468 .475 .479 .486 .489 .491 .492",
    ),
    "GARNet+": (
        ".655 .696 .712 .719 .725 .733 .737 .740 .742",
        ".399 .446 .465 .475 .481 .491 .498 .501 .504",
    ),
    "EVolT": ("- - - .609 - .698 .720 .729 .735", "- - - .358 - .448 .475 .486 .492"),
    "LegoFormer": (
        ".519 .644 .679 .694 .703 .713 .717 .719 .721",
        ".282 .392 .428 .444 .453 .464 .470 .472 .472",
    ),
    "3D-C2FT": (
        ".629 .678 .695 .702 .702 .716 .720 .723 .724",
        ".371 .424 .443 .452 .458 .468 .475 .477 .479",
    ),
    "3D-RETR (3-view)": (".674 .707 .716 .720 .723 .727 .729 .730 .731", ""),
    "3D-RETR*": (".680 .701 .716 .725 .736 .739 .747 .755 .757", ""),
    "UMIFormer": (
        ".680 .738 .752 .757 .761 .766 .768 .770 .770",
        ".428 .492 .507 .513 .517 .521 .523 .525 .525",
    ),
    "LRGT": (
        ".696 .746 .759 .765 .769 .774 .777 .778 .779",
        ".446 .501 .515 .521 .526 .531 .534 .535 .535",
    ),
    "LRGT+": (
        ".585 .715 .748 .763 .772 .783 .789 .791 .792",
        ".338 .462 .499 .516 .527 .540 .547 .550 .551",
    ),
}


def published_by_views(method: str, metric: str) -> dict[int, float]:
    """Returns the published means of a method by number of views.

    Args:
        method: key of the table, e.g. "Pix2Vox++/A".
        metric: "iou" or "f_score_1_percent".
    """
    column = _BY_VIEWS[method][list(_COLUMNS).index(metric)]
    figures = zip(VIEW_COUNTS, column.split(), strict=False)
    return {views: float(value) for views, value in figures if value != "-"}


def _multi_view_tables() -> list[PublishedTable]:
    tables = []
    for method in _BY_VIEWS:
        for metric, protocol in _COLUMNS.items():
            for views, value in published_by_views(method, metric).items():
                name = f"{method}, {views} view{'s' * (views > 1)}"
                tables.append(
                    PublishedTable(
                        name,
                        protocol,
                        _MULTI_VIEW,
                        _PIX2VOX_TEST,
                        "pix2vox",
                        {metric: {"mean": value}},
                        num_views=views,
                    )
                )
    return tables


_PIX2VOX_RERUN = PublishedTable(
    method="Pix2Vox-A (released model, run by a user), 1 view",
    protocol="pix2vox",
    source="hzxie/Pix2Vox issue 122",
    dataset=_PIX2VOX_TEST,
    splits="pix2vox",
    metrics={
        "iou_0.2": _by_category(".667 .602 .790 .848 .564 .535 .448 .717 .604 .706 .598 - -"),
        "iou_0.3": _by_category(".684 .616 .792 .855 .567 .537 .443 .714 .615 .709 .601 - -"),
        "iou_0.4": _by_category(".690 .620 .792 .857 .563 .534 .434 .709 .615 .708 .598 - -"),
        "iou_0.5": _by_category(".689 .615 .785 .853 .549 .519 .417 .694 .605 .698 .586 - -"),
    },
)
_PIX2VOX_VAE = [
    PublishedTable(
        method=f"Pix2Vox-VAE, model of {subset} only, 1 view",
        protocol="pix2vox",
        source="README of maniaa1822/pix2vox-vae",
        dataset=f"ShapeNet, {subset}, validation split of 3D-R2N2, 32^3",
        splits="pix2vox",
        split="val",
        categories=categories,
        metrics={
            f"iou_{threshold}": dict(
                zip((*categories, "mean"), map(float, row.split()), strict=True)
            )
            for threshold, row in zip((0.2, 0.3, 0.4, 0.5), rows, strict=True)
        },
    )
    for subset, categories, rows in (
        (
            "furniture",
            ("bench", "cabinet", "loudspeaker", "sofa", "table"),
            (
                ".476 .757 .676 .659 .544 .591",
                ".506 .772 .689 .685 .566 .613",
                ".500 .775 .688 .693 .569 .616",
                ".463 .770 .678 .686 .557 .603",
            ),
        ),
        (
            "vehicles",
            ("airplane", "car", "vessel"),
            (
                ".575 .816 .560 .707",
                ".602 .834 .587 .729",
                ".604 .842 .593 .735",
                ".590 .842 .580 .729",
            ),
        ),
    )
]

TABLES = [*_ONET_TABLES, *_multi_view_tables(), _PIX2VOX_RERUN, *_PIX2VOX_VAE]
"""All published tables that evaluations are compared with."""
