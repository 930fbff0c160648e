"""Fitting images to a network, and choosing them by index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from closegap.core.errors import DataError, OptionError
from closegap.data import DataSet, fit_to_network, read_indices, select


def make(rng: np.random.Generator, *shape: int) -> DataSet:
    images = rng.random((6, *shape), dtype=np.float32)
    return DataSet(images, np.arange(6) % 4, np.array([3, 1, 4, 15, 9, 2]), "mine")


class TestFit:
    @pytest.mark.parametrize(
        "shape", [(784,), (784, 1), (1, 784), (1, 1, 784), (28, 28, 1), (28, 28)]
    )
    def test_grey_images_flatten_in_row_major_order(
        self, rng: np.random.Generator, shape: tuple[int, ...]
    ) -> None:
        data = make(rng, 1, 28, 28)
        fitted = fit_to_network(data, shape)
        assert fitted.images.shape == (6, *shape)
        np.testing.assert_array_equal(fitted.images.reshape(6, -1), data.images.reshape(6, -1))

    def test_colour_images_turn_for_nhwc(self, rng: np.random.Generator) -> None:
        data = make(rng, 3, 5, 4)
        fitted = fit_to_network(data, (5, 4, 3))
        for channel in range(3):
            np.testing.assert_array_equal(fitted.images[..., channel], data.images[:, channel])
        assert fitted.images.flags.c_contiguous

    def test_a_fitting_shape_changes_nothing(self, rng: np.random.Generator) -> None:
        data = make(rng, 3, 3, 3)
        assert fit_to_network(data, (3, 3, 3)) is data

    def test_flat_images_take_the_networks_shape(self, rng: np.random.Generator) -> None:
        data = make(rng, 12)
        fitted = fit_to_network(data, (3, 2, 2))
        np.testing.assert_array_equal(fitted.images.reshape(6, 12), data.images)

    @pytest.mark.parametrize("shape", [(783,), (28, 56), (2, 14, 28), (1, 32, 32), (3, 28, 28)])
    def test_wrong_shape(self, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
        with pytest.raises(DataError, match=r"images of shape \[1, 28, 28\] do not fit .*\["):
            fit_to_network(make(rng, 1, 28, 28), shape)

    def test_same_size_in_another_layout_is_refused(self, rng: np.random.Generator) -> None:
        with pytest.raises(DataError, match="do not fit"):
            fit_to_network(make(rng, 3, 4, 8), (3, 8, 4))

    def test_labels_beyond_the_outputs(self, rng: np.random.Generator) -> None:
        data = make(rng, 4)
        assert fit_to_network(data, (4,), classes=4) is data
        with pytest.raises(DataError, match=r"image 15 has label 3, but .* outputs 0..2"):
            fit_to_network(data, (4,), classes=3)


class TestSelect:
    def test_limit_keeps_the_front(self, rng: np.random.Generator) -> None:
        data = make(rng, 4)
        assert select(data, limit=2).indices.tolist() == [3, 1]
        assert len(select(data, limit=100)) == 6
        np.testing.assert_array_equal(select(data).images, data.images)

    def test_indices_are_the_sets_own_and_keep_their_order(
        self, rng: np.random.Generator, tmp_path: Path
    ) -> None:
        data = make(rng, 4)
        path = tmp_path / "list.txt"
        path.write_text("# hard ones\n9\n\n 3 # a comment\r\n2\n")
        chosen = select(data, indices=path)
        assert chosen.indices.tolist() == [9, 3, 2]
        np.testing.assert_array_equal(chosen.images, data.images[[4, 0, 5]])
        np.testing.assert_array_equal(chosen.labels, data.labels[[4, 0, 5]])
        assert select(data, indices=str(path), limit=1).indices.tolist() == [9]
        assert select(data, indices=[15, 1]).indices.tolist() == [15, 1]
        assert chosen.digest != data.digest

    @pytest.mark.parametrize("limit", [0, -3])
    def test_limit_below_one(self, rng: np.random.Generator, limit: int) -> None:
        with pytest.raises(OptionError, match=f"at least 1 image, got {limit}"):
            select(make(rng, 4), limit=limit)

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (b"3\n\n7x\n", "list.txt:3: '7x' is not an integer"),
            (b"1.5\n", "list.txt:1: '1.5' is not an integer"),
            (b"3 1\n", "list.txt:1: '3 1' is not an integer"),
            (b"# nothing\n\n", "holds no index"),
            (b"3\n5\n", r"mine has no image with index 5 \(it has 6, 1 to 15\)"),
            (b"3\n1\n3\n", "names index 3 twice"),
            (b"\xff\xfe\x00", "not a text file"),
        ],
    )
    def test_bad_lists(
        self, rng: np.random.Generator, tmp_path: Path, content: bytes, text: str
    ) -> None:
        path = tmp_path / "list.txt"
        path.write_bytes(content)
        with pytest.raises(DataError, match=text):
            select(make(rng, 4), indices=path)

    def test_no_such_list(self, rng: np.random.Generator, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no such file"):
            select(make(rng, 4), indices=tmp_path / "absent.txt")
        with pytest.raises(DataError, match="at least one index"):
            select(make(rng, 4), indices=[])

    def test_pack_lists(self, data_path: Callable[[str], Path]) -> None:
        assert read_indices(data_path("hard_instances/B_mip_unsafe.txt"))[:2] == (3343, 1729)
