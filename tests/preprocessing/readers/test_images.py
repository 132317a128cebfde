from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from preprocessing.case import BadFile, Case
from preprocessing.readers.images import read_case, read_image, read_mask

GREY = np.arange(0, 240, 20, dtype=np.uint8).reshape(3, 4)
DISC = np.array([[0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], bool)


def save(path, values, mode=None):
    image = Image.fromarray(values)
    (image if mode is None else image.convert(mode)).save(path)
    return str(path)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_grey_images_read_the_same_in_every_mode(tmp_path, mode):
    assert np.array_equal(read_image(save(tmp_path / "a.png", GREY, mode)), GREY)


def test_sixteen_bits_and_floats_keep_their_values(tmp_path):
    deep = GREY.astype(np.uint16) * 200
    assert np.array_equal(read_image(save(tmp_path / "a.png", deep)), deep)
    assert np.array_equal(read_image(save(tmp_path / "a.tif", deep.astype(np.float32) / 3)), deep.astype("f4") / 3)


def test_colour_becomes_luminance(tmp_path):
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 200
    assert read_image(save(tmp_path / "a.png", red)) == pytest.approx(0.299 * 200, abs=0.5)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA", "P"])
def test_masks_read_the_same_in_every_mode(tmp_path, mode):
    mask = read_mask(save(tmp_path / "m.png", np.uint8(255 * DISC), mode))
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, DISC)


def test_a_mask_drawn_on_a_transparent_ground(tmp_path):
    white = np.full((3, 4, 4), 255, np.uint8)
    white[..., 3] = 255 * DISC
    assert np.array_equal(read_mask(save(tmp_path / "m.png", white)), DISC)


def test_an_anti_aliased_mask_is_cut_at_half(tmp_path):
    assert read_mask(save(tmp_path / "m.png", np.uint8([[0, 90, 127, 128, 255]]))).tolist() == [[0, 0, 0, 1, 1]]


def test_small_whole_numbers_are_classes_and_an_empty_mask_is_empty(tmp_path):
    assert read_mask(save(tmp_path / "m.png", np.uint8([[0, 1, 2, 4]]))).tolist() == [[0, 1, 2, 4]]
    assert not read_mask(save(tmp_path / "e.png", np.zeros((3, 3), np.uint8))).any()


@pytest.mark.parametrize(
    ("palette", "expected"),
    [
        ([(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)], [0, 1, 2, 3]),  # a label map to look at
        ([(0, 0, 0), (85, 85, 85), (170, 170, 170), (255, 255, 255)], [0, 0, 1, 1]),  # grey, anti-aliased
        ([(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 0, 0)], [1, 0, 0, 0]),  # 0 is not black: no class ids
    ],
)
def test_the_colours_of_a_palette_name_classes(tmp_path, palette, expected):
    image = Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8), mode="P")
    image.putpalette([value for colour in palette for value in colour])
    image.save(tmp_path / "mask.png")
    assert read_mask(str(tmp_path / "mask.png")).tolist() == [expected]


def test_a_picture_is_read_as_viewers_show_it_and_a_stack_is_refused(tmp_path):
    values = np.zeros((4, 6), np.uint8)
    values[0, 0] = 200
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by half a turn
    Image.fromarray(values).save(tmp_path / "turned.png", exif=exif)
    assert np.argwhere(read_image(str(tmp_path / "turned.png"))).tolist() == [[3, 5]]
    pages = [Image.fromarray(values) for _ in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(BadFile, match="holds 3 pictures"):
        read_mask(str(tmp_path / "stack.tif"))


def test_real_masks_of_every_kind(busi_original_root):
    folder = busi_original_root / "Dataset_BUSI_with_GT"
    for name, share in [("benign/benign (4)_mask_1", (0, 0.2)), ("normal/normal (1)_mask", (0, 0))]:
        mask = read_mask(str(folder / f"{name}.png"))
        assert set(np.unique(mask)) <= {0, 1}
        assert share[0] <= mask.mean() <= share[1]
        assert (mask.mean() > 0) == (share[1] > 0)


def broken(folder):
    good = save(folder / "good.png", np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
    whole = (folder / "good.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("this is not an image")
    (folder / "scan.xyz").write_text("unknown")
    return good


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cut.png", "cannot be read as an image"),
        ("empty.png", "0 bytes"),
        ("text.png", "not an image"),
        ("scan.xyz", "format .xyz is not known"),
        ("missing.png", "does not exist"),
    ],
)
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_broken_files_say_what_is_wrong(tmp_path, name, reason, read):
    broken(tmp_path)
    with pytest.raises(BadFile, match=reason) as caught:
        read(str(tmp_path / name))
    assert caught.value.file == str(tmp_path / name)


def test_a_case_is_the_union_of_its_masks_and_the_stack_of_its_modalities(tmp_path):
    first, second = save(tmp_path / "1.png", GREY), save(tmp_path / "2.png", 2 * GREY)
    masks = [save(tmp_path / f"m{i}.png", np.uint8(255 * np.roll(DISC, i, axis=1))) for i in (0, 2)]
    image, label = read_case(Case("a", "a", "", {"x": first, "y": second}, tuple(masks)), 2)
    assert image.shape == (2, 3, 4)
    assert np.array_equal(image[1], 2 * GREY)
    assert np.array_equal(label, DISC | np.roll(DISC, 2, axis=1))
    assert read_case(Case("a", "a", "", {"x": first}, ()), 2)[1] is None


def test_sizes_must_match(tmp_path):
    image, small = save(tmp_path / "i.png", GREY), save(tmp_path / "s.png", GREY[:2])
    with pytest.raises(BadFile, match="mask is 2 x 4, the image is 3 x 4"):
        read_case(Case("a", "a", "", {"x": image}, (small,)), 2)
    with pytest.raises(BadFile, match="first modality is 3 x 4"):
        read_case(Case("a", "a", "", {"x": image, "y": small}, ()), 2)
    with pytest.raises(BadFile, match=r"data\.dims is 3"):
        read_case(Case("a", "a", "", {"x": image}, ()), 3)
