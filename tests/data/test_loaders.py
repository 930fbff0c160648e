"""Loaders against files written byte by byte, and their errors."""

from __future__ import annotations

import gzip
import pickle
import struct
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from closegap.core.errors import DataError, MissingDependencyError
from closegap.data import DATA_NAMES, digits_split, load_data, load_training


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root that holds nothing but what a test puts there."""
    monkeypatch.setenv("CLOSEGAP_DATA", str(tmp_path / "root"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "root"


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    """The IDX format, written from its description."""
    head = struct.pack(">BBBB", 0, 0, 8, array.ndim)
    return head + b"".join(struct.pack(">I", n) for n in array.shape) + array.tobytes()


def put_idx(folder: Path, rng: np.random.Generator, suffix: str = "") -> tuple[NDArray, NDArray]:
    folder.mkdir(parents=True)
    images = rng.integers(0, 256, (5, 4, 3)).astype(np.uint8)
    labels = rng.integers(0, 10, 5).astype(np.uint8)
    pack = gzip.compress if suffix else bytes
    (folder / f"t10k-images-idx3-ubyte{suffix}").write_bytes(pack(idx_bytes(images)))
    (folder / f"t10k-labels-idx1-ubyte{suffix}").write_bytes(pack(idx_bytes(labels)))
    return images, labels


class TestDigits:
    def test_split_covers_all_images_once_and_matches_scikit_learn(self) -> None:
        from sklearn.datasets import load_digits

        raw = load_digits()
        train, held_out = digits_split()
        assert (len(train), len(held_out)) == (1400, 397)
        everything = np.concatenate([train.indices, held_out.indices])
        np.testing.assert_array_equal(np.sort(everything), np.arange(1797))
        for part in (train, held_out):
            np.testing.assert_array_equal(part.images[:, 0] * 16, raw.images[part.indices])
            np.testing.assert_array_equal(part.labels, raw.target[part.indices])

    def test_the_split_never_moves(self) -> None:
        # The packaged networks were trained on the other part; another split would leak.
        assert digits_split().held_out.indices[:5].tolist() == [372, 1259, 300, 840, 1266]

    def test_by_name(self) -> None:
        data = load_data("digits")
        assert data.shape == (1, 8, 8)
        assert data.digest == digits_split().held_out.digest != digits_split().train.digest


class TestIdx:
    @pytest.mark.parametrize("suffix", ["", ".gz"])
    @pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
    def test_files(self, home: Path, rng: np.random.Generator, name: str, suffix: str) -> None:
        images, labels = put_idx(home / name, rng, suffix)
        data = load_data(name)
        np.testing.assert_array_equal(np.rint(data.images[:, 0] * 255), images)
        np.testing.assert_array_equal(data.labels, labels)
        assert data.name == name
        assert len(data.class_names) == 10

    def test_where_torchvision_puts_them(self, home: Path, rng: np.random.Generator) -> None:
        images, _ = put_idx(home / "fashion-mnist" / "FashionMNIST" / "raw", rng)
        assert len(load_data("fashion-mnist")) == len(images)

    def test_current_folder_and_cache(self, home: Path, rng: np.random.Generator) -> None:
        put_idx(Path.home() / ".cache" / "closegap" / "mnist", rng)
        cached = load_data("mnist").digest
        put_idx(Path("data") / "mnist", rng)
        assert load_data("mnist").digest != cached

    def test_nothing_there(self, home: Path) -> None:
        with pytest.raises(
            DataError, match=r"put t10k-images-idx3-ubyte.gz .* into one of"
        ) as info:
            load_data("mnist")
        assert str(home / "mnist") in str(info.value)

    def test_training_images_are_another_part(self, home: Path, rng: np.random.Generator) -> None:
        folder = home / "mnist"
        images, labels = put_idx(folder, rng)
        assert load_training("mnist") is None
        for kind in ("images-idx3", "labels-idx1"):
            (folder / f"t10k-{kind}-ubyte").rename(folder / f"train-{kind}-ubyte")
        training = load_training("mnist")
        assert training is not None
        np.testing.assert_array_equal(np.rint(255 * training.images[:, 0]), images)
        np.testing.assert_array_equal(training.labels, labels)
        (folder / "train-labels-idx1-ubyte").unlink()
        with pytest.raises(DataError, match="train-labels-idx1-ubyte is missing"):
            load_training("mnist")
        with pytest.raises(DataError, match="mnist and fashion-mnist"):
            load_training("cifar10")

    def test_only_images(self, home: Path, rng: np.random.Generator) -> None:
        put_idx(home / "mnist", rng)
        (home / "mnist" / "t10k-labels-idx1-ubyte").unlink()
        with pytest.raises(DataError, match="t10k-labels-idx1-ubyte is missing"):
            load_data("mnist")

    @pytest.mark.parametrize(
        ("damage", "text"),
        [
            (lambda data: data[:-1], "truncated or damaged"),
            (lambda data: data[:9], "truncated or damaged"),
            (lambda data: b"\0\0\x0d" + data[3:], "not an IDX file of unsigned bytes"),
            (lambda data: b"", "not an IDX file"),
            (lambda data: gzip.compress(data)[:-9], "truncated gzip"),
        ],
    )
    def test_damage(
        self,
        home: Path,
        rng: np.random.Generator,
        damage: Callable[[bytes], bytes],
        text: str,
    ) -> None:
        put_idx(home / "mnist", rng)
        path = home / "mnist" / "t10k-images-idx3-ubyte"
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(DataError, match=text):
            load_data("mnist")

    def test_swapped(self, home: Path, rng: np.random.Generator) -> None:
        put_idx(home / "mnist", rng)
        images, labels = (
            home / "mnist" / f"t10k-{k}-ubyte" for k in ("images-idx3", "labels-idx1")
        )
        content = images.read_bytes()
        images.write_bytes(labels.read_bytes())
        labels.write_bytes(content)
        with pytest.raises(DataError, match="are the two files swapped"):
            load_data("mnist")


class TestCifar:
    def planes(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return (
            rng.integers(0, 256, (4, 3, 32, 32)).astype(np.uint8),
            rng.integers(0, 10, 4).astype(np.uint8),
        )

    def test_binary_python_and_archive_agree(self, home: Path, rng: np.random.Generator) -> None:
        images, labels = self.planes(rng)
        folder = home / "cifar10"
        folder.mkdir(parents=True)
        np.savez(folder / "images.npz", images=images.transpose(0, 2, 3, 1), labels=labels)
        digests = [load_data("cifar10").digest]
        (folder / "cifar-10-batches-py").mkdir()
        batch = {b"data": images.reshape(4, -1), b"labels": labels.tolist()}
        (folder / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
        digests.append(load_data("cifar10").digest)
        (folder / "cifar-10-batches-bin").mkdir()
        records = np.concatenate([labels[:, None], images.reshape(4, -1)], axis=1)
        (folder / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(records.tobytes())
        data = load_data("cifar10")
        digests.append(data.digest)
        assert len(set(digests)) == 1
        np.testing.assert_array_equal(np.rint(data.images * 255), images)
        np.testing.assert_array_equal(data.labels, labels)

    def test_a_pickle_never_runs_code(self, home: Path, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return (Path.mkdir, (tmp_path / "made",))  # type: ignore[return-value]

        folder = home / "cifar10"
        folder.mkdir(parents=True)
        (folder / "test_batch").write_bytes(pickle.dumps(Evil(), protocol=2))
        with pytest.raises(DataError, match="it asks for"):
            load_data("cifar10")
        assert not (tmp_path / "made").exists()

    def test_truncated_binary(self, home: Path) -> None:
        folder = home / "cifar10"
        folder.mkdir(parents=True)
        (folder / "test_batch.bin").write_bytes(b"\0" * 3000)
        with pytest.raises(DataError, match="not a whole number of records of 3073"):
            load_data("cifar10")

    def test_label_beyond_the_classes(self, home: Path) -> None:
        folder = home / "cifar10"
        folder.mkdir(parents=True)
        (folder / "test_batch.bin").write_bytes(b"\x0a" + b"\0" * 3072)
        with pytest.raises(DataError, match=r"image 0 has label 10, which is not a class \(0..9\)"):
            load_data("cifar10")


class TestArchive:
    def save(self, folder: Path, **arrays: object) -> Path:
        path = folder / "mine.npz"
        np.savez(path, **arrays)  # type: ignore[arg-type]
        return path

    @pytest.mark.parametrize(
        ("given", "got"),
        [
            ((2, 5, 6), (1, 5, 6)),
            ((2, 5, 6, 1), (1, 5, 6)),
            ((2, 5, 6, 3), (3, 5, 6)),
            ((2, 3, 5, 6), (3, 5, 6)),
            ((2, 1, 5, 3), (1, 5, 3)),
            ((2, 7), (7,)),
        ],
    )
    def test_layouts(
        self,
        tmp_path: Path,
        rng: np.random.Generator,
        given: tuple[int, ...],
        got: tuple[int, ...],
    ) -> None:
        images = rng.random(given, dtype=np.float32)
        data = load_data(self.save(tmp_path, images=images, labels=np.array([0, 7])))
        assert data.shape == got
        moved = images.transpose(0, 3, 1, 2) if given[-1] == 3 and given[1] == 5 else images
        np.testing.assert_array_equal(data.images, moved.reshape(data.images.shape))
        assert data.indices.tolist() == [0, 1]
        assert data.name == "mine"

    def test_bytes_are_divided_in_float32(self, tmp_path: Path) -> None:
        grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
        data = load_data(self.save(tmp_path, images=grey, labels=np.array([0])))
        np.testing.assert_array_equal(
            data.images.reshape(-1), np.arange(256, dtype=np.float32) / np.float32(255)
        )

    def test_index_and_class_names(self, tmp_path: Path) -> None:
        path = self.save(
            tmp_path,
            images=np.zeros((2, 3)),
            labels=np.array([1, 0]),
            index=np.array([-1, 40]),
            class_names=np.array(["cat", "dog"]),
        )
        data = load_data(path)
        assert data.indices.tolist() == [-1, 40]
        assert data.class_names == ("cat", "dog")

    @pytest.mark.parametrize(
        ("arrays", "text"),
        [
            ({"images": np.zeros((2, 3))}, "no array 'labels' .it holds images."),
            ({"labels": np.zeros(2)}, "no array 'images'"),
            ({"images": np.zeros((0, 3)), "labels": np.zeros(0)}, "data set is empty"),
            ({"images": np.zeros(3), "labels": np.zeros(3)}, r"must be \[M, ...\]"),
            ({"images": np.zeros((2, 3)), "labels": np.zeros(3)}, r"got labels \(3,\)"),
            ({"images": np.zeros((2, 3)), "labels": np.zeros((2, 1))}, r"got labels \(2, 1\)"),
            ({"images": np.zeros((1, 3)), "labels": np.array([0.5])}, "found one that is not"),
            ({"images": np.zeros((1, 3)), "labels": np.array([np.nan])}, "found one that is not"),
            ({"images": np.zeros((1, 3)), "labels": np.array(["a"])}, "labels must be integers"),
            ({"images": np.zeros((1, 3)), "labels": np.array([-1])}, "has label -1"),
            ({"images": np.zeros((1, 3), np.int64), "labels": np.zeros(1)}, "not int64"),
            ({"images": np.array([[0, 0.5], [2, 0]]), "labels": np.zeros(2)}, "image 1 .* divide"),
            ({"images": np.array([[0, -0.5]]), "labels": np.zeros(1)}, "pixel -0.5 outside"),
            ({"images": np.array([[0, np.nan]]), "labels": np.zeros(1)}, "pixel nan .* remove"),
            ({"images": np.array([[0, np.inf]]), "labels": np.zeros(1)}, "pixel inf .* remove"),
            ({"images": np.array([[0, 1e300]]), "labels": np.zeros(1)}, "outside"),
            (
                {"images": np.zeros((2, 3)), "labels": np.zeros(2), "indices": np.ones(2)},
                "index 1 belongs to two images",
            ),
            ({"images": np.array([[None]]), "labels": np.zeros(1)}, "pickled objects"),
        ],
    )
    def test_refused(self, tmp_path: Path, arrays: dict[str, NDArray], text: str) -> None:
        with pytest.raises(DataError, match=text) as info:
            load_data(self.save(tmp_path, **arrays))
        assert "\n" not in str(info.value)
        assert "mine" in str(info.value)

    def test_damaged_files(self, tmp_path: Path) -> None:
        path = self.save(tmp_path, images=np.zeros((9, 30)), labels=np.zeros(9))
        content = path.read_bytes()
        broken = {
            "short.npz": content[: len(content) // 2],
            "flip.npz": content[:200] + b"\xff" * 50 + content[250:],
            "text.npz": b"images",
            "empty.npz": b"",
        }
        for name, data in broken.items():
            (tmp_path / name).write_bytes(data)
            kind = ".*not an .npz file" if name in ("text.npz", "empty.npz") else ""
            with pytest.raises(DataError, match=name + kind):
                load_data(tmp_path / name)
        np.save(tmp_path / "one.npy", np.zeros(3))
        with pytest.raises(DataError, match="holds one array"):
            load_data(tmp_path / "one.npy")

    def test_no_such_name_or_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no data set 'mnits': the names are digits, mnist"):
            load_data("mnits")
        with pytest.raises(DataError, match="is a folder"):
            load_data(tmp_path)


class TestDownload:
    def test_without_torchvision(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torchvision", None)
        monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
        with pytest.raises(MissingDependencyError, match=r"closegap\[torchvision\]"):
            load_data("mnist", download=True)

    def fake(self, monkeypatch: pytest.MonkeyPatch, fetch: Callable[[Path], None]) -> None:
        """A torchvision whose MNIST only does what `fetch` does in its root."""

        def mnist(*, root: str, train: bool, download: bool) -> None:
            assert (train, download) == (False, True)
            fetch(Path(root))

        module = types.SimpleNamespace(MNIST=mnist)
        monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
        monkeypatch.setitem(sys.modules, "torchvision.datasets", module)  # type: ignore[arg-type]

    def test_files_land_in_the_cache_and_are_read(
        self, home: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.fake(monkeypatch, lambda root: put_idx(root / "MNIST" / "raw", rng) and None)
        assert len(load_data("mnist", download=True)) == 5
        assert (Path.home() / ".cache" / "closegap" / "mnist").is_dir()

    def test_failure(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fetch(root: Path) -> None:
            raise RuntimeError("Error downloading\nno route")

        self.fake(monkeypatch, fetch)
        with pytest.raises(DataError, match=r"could not be downloaded into .*: Error downloading$"):
            load_data("mnist", download=True)


def test_pack(data_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The real files: known first labels, and the negative indices of images without one."""
    monkeypatch.setenv("CLOSEGAP_DATA", str(data_path("mnist/t10k.npz").parent.parent))
    mnist, cifar = load_data("mnist"), load_data("cifar10")
    assert mnist.images.shape == (10000, 1, 28, 28)
    assert mnist.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert cifar.images.shape == (705, 3, 32, 32)
    assert cifar.indices[:100].tolist() == list(range(100))
    assert [cifar.class_names[n] for n in cifar.labels[:4]] == ["cat", "ship", "ship", "airplane"]
    assert set(DATA_NAMES) == {"digits", "mnist", "fashion-mnist", "cifar10"}
