"""The data sets that have a name, as data. Each has grey pictures of 28 x 28 pixels in files of MNIST's format, IDX.

MNIST and Fashion-MNIST have the SHA-256 of their unpacked files. The sums of KMNIST, QMNIST and EMNIST are of the files
as published; they stand in the folder `url_checksums` of TensorFlow Datasets, github.com/tensorflow/datasets.
"""

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.data.dataset import MNIST
from pipeline.recipes import Augmentation, Habits

Subset = Literal["full", "tenth"]
Part = Literal["train", "test"]
TENTH = Path(__file__).parent / "tenth"
SIDE = 28  # height and width of every picture, in pixels

DIGITS = tuple(string.digits)
MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True)
class Entry:
    """A data set with a name.

    Attributes:
        name: as in PIPELINE_DATASET.
        title: name for people.
        classes: names of the classes, in the order of their labels.
        licence: of the pictures.
        home: page of the authors.
        loader: class of torchvision that downloads the files; the folder of its files has this name too.
        downloads: arguments of `loader`, one call each.
        files: training images, training labels, test images, test labels; names of the unpacked files.
        unpacked: SHA-256 of the unpacked files of each subset.
        packed: SHA-256 of the files with `.gz` as published, if those of the unpacked files are unknown.
        archive: name and SHA-256 of the zip file that contains `gzip/FILE.gz`, if the authors publish no single files.
        first_label: label of the first class in the files.
        transposed: whether rows and columns are exchanged in the files.
        moments: published mean and deviation of each channel; None: computed from the training split.
        preparation: how a picture of any size becomes one of these (see `Task`).
        habits: how recipes that adapt change.
        minimum_accuracy: as in `DataSet`.
        tenth: folder of the bundled tenth.
        hint: for a user whose files are missing, a clause.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    licence: str
    home: str
    loader: str
    downloads: tuple[Mapping[str, Any], ...] = ({},)
    files: tuple[str, ...] = MNIST_FILES
    unpacked: Mapping[Subset, tuple[str, ...]] = field(default_factory=dict)
    packed: tuple[str, ...] = ()
    archive: tuple[str, str] | None = None
    first_label: int = 0
    transposed: bool = False
    moments: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    preparation: Mapping[str, Any] = field(default_factory=lambda: {"name": "stroke"})
    habits: Habits = field(default_factory=Habits)
    minimum_accuracy: float | None = None
    tenth: Path | None = None
    hint: str = ""

    @property
    def raw(self) -> Path:
        """The folder of the files in torchvision's layout, such as `MNIST/raw`."""
        return Path(self.loader) / "raw"

    def files_of(self, part: Part) -> tuple[str, ...]:
        """The names of a part's two files: images and labels."""
        return self.files[:2] if part == "train" else self.files[2:]


def _emnist(split: str, title: str, classes: tuple[str, ...], first_label: int = 0) -> Entry:
    files = (
        f"emnist-{split}-{part}-{kind}-ubyte" for part in ("train", "test") for kind in ("images-idx3", "labels-idx1")
    )
    return Entry(
        name=f"emnist-{split}",
        title=title,
        classes=classes,
        licence="not stated by the authors",
        home="https://www.nist.gov/itl/products-and-services/emnist-dataset",
        loader="EMNIST",
        downloads=({"split": split},),
        files=tuple(files),
        archive=("gzip.zip", "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e"),
        first_label=first_label,
        transposed=True,
    )


CATALOGUE = {
    entry.name: entry
    for entry in (
        Entry(
            name="mnist",
            title="MNIST",
            classes=DIGITS,
            licence="CC BY-SA 3.0",
            home="http://yann.lecun.com/exdb/mnist/",
            loader="MNIST",
            unpacked={
                "full": (
                    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                ),
                "tenth": (
                    "603132995cdf312c7ca9e6e5d656eebe578bc3608bb02e2e3b411dbca47f4b50",
                    "b5bdd819d6843f922d8773679bfbb6759db3d75e345f22e2b5f092334215fdd4",
                    "aa181318018c701c0b6db4db6e3def8c0ec13e7f4aa2af834d59308524b71011",
                    "642dd361128288a1986615f04431acec3fd022ab8042dec8e9cc6c3990d619cb",
                ),
            },
            moments=(MNIST.mean, MNIST.deviation),
            minimum_accuracy=0.98,
            tenth=TENTH,
            hint="MNIST_DIR is read as well, and PIPELINE_SUBSET=tenth needs no files",
        ),
        Entry(
            name="fashion-mnist",
            title="Fashion-MNIST",
            classes=(
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
            licence="MIT",
            home="https://github.com/zalandoresearch/fashion-mnist",
            loader="FashionMNIST",
            unpacked={
                "full": (
                    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
                )
            },
            preparation={"name": "fit", "background": "black"},
            habits=Habits(least_epochs=24, augmentation=Augmentation(shift=1, flip=True)),
            hint="Debian's package dataset-fashion-mnist has them in /usr/share/datasets/fashion-mnist",
        ),
        Entry(
            name="kmnist",
            title="KMNIST",
            classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
            licence="CC BY-SA 4.0",
            home="http://codh.rois.ac.jp/kmnist/",
            loader="KMNIST",
            packed=(
                "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
                "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
                "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
                "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
            ),
        ),
        Entry(
            name="qmnist",
            title="QMNIST",
            classes=DIGITS,
            licence="BSD 3-Clause",
            home="https://github.com/facebookresearch/qmnist",
            loader="QMNIST",
            downloads=({"what": "train"}, {"what": "test"}),
            files=(
                "qmnist-train-images-idx3-ubyte",
                "qmnist-train-labels-idx2-int",
                "qmnist-test-images-idx3-ubyte",
                "qmnist-test-labels-idx2-int",
            ),
            packed=(
                "9e26a7bf1683614e065d7b76460ccd52807165b3f22561fb782bd9f38c52b51d",
                "2c05dc77f6b916b38e455e97ab129a42a444f3dbef09b278a366f82904e0dd9f",
                "43fc22bf7498b8fc98de98369d72f752d0deabc280a43a7bcc364ab19e57b375",
                "9fbcbe594c3766fdf4f0b15c5165dc0d1e57ac604e01422608bb72c906030d06",
            ),
        ),
        _emnist("balanced", "EMNIST Balanced", (*DIGITS, *string.ascii_uppercase, *"abdefghnqrt")),
        _emnist("letters", "EMNIST Letters", tuple(string.ascii_lowercase), first_label=1),
    )
}


def owner(checksum: str) -> str | None:
    """Return the name of the data set that has a file of this SHA-256; None if none is known."""
    for entry in CATALOGUE.values():
        if checksum in entry.packed or any(checksum in sums for sums in entry.unpacked.values()):
            return entry.name
    return None
