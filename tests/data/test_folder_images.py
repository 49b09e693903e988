"""Folders of pictures: what becomes 8 bits of grey or RGB without loss is read, anything else is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featuregen.config.schema import Data
from featuregen.data.sources import load_images
from featuregen.errors import UserError

SIZE = (6, 6)


def picture(mode: str, seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    grey = Image.fromarray(random.integers(0, 256, SIZE, dtype=np.uint8))
    coloured = Image.fromarray(random.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
    return (grey if mode in ("1", "L", "LA") else coloured).convert(mode)


def folder(path: Path, *modes: str) -> Path:
    """A set of a class for each mode, with three pictures of it."""
    for part in ("train", "test"):
        for label, mode in enumerate(modes):
            place = path / part / f"class {label}"
            place.mkdir(parents=True)
            for number in range(3):
                picture(mode, number).save(place / f"{number}.png")
    return path


def pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    split = load_images(Data(name=str(path))).train
    return np.asarray(split.images[:])


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        pixels(path)
    return str(caught.value)


def odd(path: Path) -> Path:
    """The picture that a test spoils: neither the first of its class nor the last."""
    return path / "train" / "class 1" / "1.png"


@pytest.mark.parametrize("modes", [("L", "RGB"), ("RGB", "L"), ("1", "L", "RGB")])
def test_one_coloured_class_makes_the_set_coloured(tmp_path: Path, modes: tuple[str, ...]) -> None:
    found = pixels(folder(tmp_path / "set", *modes))
    assert found.shape[3] == 3
    expected = [np.asarray(picture(mode, number).convert("RGB")) for mode in modes for number in range(3)]
    assert (found == np.stack(expected)).all()


def test_a_grey_set_takes_grey_pictures_of_any_mode_and_no_coloured_one(tmp_path: Path) -> None:
    path = folder(tmp_path / "set", "L", "L")
    for mode in ("1", "P", "RGB", "LA", "RGBA"):
        picture("1" if mode == "1" else "L", 1).convert(mode).save(odd(path))
        found = pixels(path)
        assert (
            found.shape[3] == 1
            and (found[4, ..., 0] == np.asarray(picture("1" if mode == "1" else "L", 1).convert("L"))).all()
        )
    picture("RGB").save(odd(path))
    assert f"{odd(path)} is coloured" in refused(path)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_transparent_pixels_are_refused_and_opaque_ones_read(tmp_path: Path, mode: str) -> None:
    path = folder(tmp_path / "set", mode, mode)
    image = picture(mode, 1).convert("RGBA")
    image.save(odd(path))
    assert pixels(path).shape[0] == 6
    image.putpixel((2, 2), (1, 1, 1, 254))
    image.save(odd(path))
    assert f"{odd(path)} has transparent pixels" in refused(path)
    picture(mode, 1).save(odd(path), transparency=7 if mode == "L" else (1, 2, 3))
    if mode == "L" and (np.asarray(picture("L", 1)) == 7).any():
        assert "transparent" in refused(path)


def test_pictures_larger_than_a_base_set_may_have_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = folder(tmp_path / "set", "L", "L")
    Image.new("L", (2049, 2048)).save(odd(path))
    assert f"{odd(path)} claims 2049×2048 pixels, more than a base set's images may have (4,194,304)" in refused(path)


def test_more_than_8_bits_are_refused_and_not_made_white(tmp_path: Path) -> None:
    path = folder(tmp_path / "set", "L", "L")
    deep = np.random.default_rng(0).integers(0, 2**16, SIZE, dtype=np.uint16)
    for first in (False, True):
        place = path / "train" / "class 0" / "0.png" if first else odd(path)
        Image.fromarray(deep).save(place)
        assert f"{place} has more than 8 bits" in refused(path)


def test_sixteen_bits_of_each_colour_are_refused(tmp_path: Path) -> None:
    """Pillow writes none, so the header of a picture is changed: its pixels are not decoded."""
    path = folder(tmp_path / "set", "RGB", "RGB")
    content = bytearray(odd(path).read_bytes())
    content[24] = 16
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    odd(path).write_bytes(bytes(content))
    assert "more than 8 bits" in refused(path)


@pytest.mark.parametrize("name", ["animated.png", "animated.webp"])
def test_animated_pictures_are_refused(tmp_path: Path, name: str) -> None:
    path = folder(tmp_path / "set", "RGB", "RGB")
    frames = [picture("RGB", number) for number in range(3)]
    place = odd(path).with_name(name)
    frames[0].save(place, save_all=True, append_images=frames[1:], duration=10)
    assert f"{place} has 3 frames" in refused(path)


def test_other_colours_are_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "set", "RGB", "RGB")
    place = odd(path).with_suffix(".jpg")
    picture("CMYK").save(place)
    assert f"{place} has the colours CMYK" in refused(path)
