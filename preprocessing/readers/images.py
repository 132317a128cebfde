"""Images and masks from files. Formats are known by their ending; a new one is a new entry in READERS."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps
from upath import UPath

from preprocessing.case import BadFile, Case
from preprocessing.object_store import fresh, reaching

MAX_CLASS_ID = 15  # a mask whose values all lie below is a label map; else it is grey, lesion where above half
_PILLOW_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


def read_case(case: Case, dims: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Image float32 [C, *size], modalities in order, and label uint8 [*size] (None when unlabelled).

    Raises:
        BadFile: a file cannot be read, or sizes do not match.
    """
    channels = []
    for file in case.images.values():
        channels.append(read_image(file))
        if channels[-1].ndim != dims:
            raise BadFile(file, f"has {channels[-1].ndim} axes, data.dims is {dims}")
        if channels[-1].shape != channels[0].shape:
            raise BadFile(file, f"is {_size(channels[-1])}, the first modality is {_size(channels[0])}")
    image = np.stack(channels)
    if not case.labels:
        return image, None
    label = np.zeros(image.shape[1:], np.uint8)
    for file in case.labels:
        mask = read_mask(file)
        if mask.shape != label.shape:
            raise BadFile(file, f"the mask is {_size(mask)}, the image is {_size(label)} pixels")
        np.maximum(label, mask, out=label)
    return image, label


def read_image(file: str) -> np.ndarray:
    """float32 [*size]: grey values, or the luminance where there is colour.

    Raises:
        BadFile: the file is missing, empty, cut short, no image, or of an unknown format.
    """
    return _grey(_raster(file))


def read_mask(file: str) -> np.ndarray:
    """uint8 [*size] class ids. Of a picture whose palette has colours they are its indices, if these are small and 0 is
    black; a grey or anti-aliased mask is 1 where it exceeds half of its maximum.

    Raises:
        BadFile: as in `read_image`.
    """
    raster = _raster(file)
    if raster.mode == "P" and _colours_name_classes(raster):
        return np.array(raster)
    values = _grey(raster)
    if "A" in raster.getbands():
        alpha = np.asarray(raster.convert("RGBA"), np.float32)[..., 3]
        if np.ptp(alpha) > 0:  # drawn on a transparent ground; an opaque mask says nothing by its alpha
            values = alpha if np.ptp(values) == 0 else values * (alpha > alpha.max() / 2)
    if not np.isfinite(values).all():
        raise BadFile(file, "the mask holds values that are not finite")
    if values.max(initial=0) <= MAX_CLASS_ID and np.array_equal(values, np.floor(values)) and values.min() >= 0:
        return values.astype(np.uint8)
    return (values > values.max() / 2).astype(np.uint8)


def _colours_name_classes(raster: Image.Image) -> bool:
    """Whether a palette stands for class ids, as in label maps that are meant to be looked at."""
    colours = np.zeros((256, 3), int)
    known = np.array(raster.getpalette("RGB") or []).reshape(-1, 3)
    colours[: len(known)] = known
    used = np.unique(np.asarray(raster))
    return bool(used.max() <= MAX_CLASS_ID and not colours[0].any() and (np.ptp(colours[used], axis=1) > 0).any())


def _pillow(content: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(content))
        if (pages := getattr(image, "n_frames", 1)) > 1:
            raise ValueError(f"it holds {pages} pictures, and one is wanted")
        return ImageOps.exif_transpose(image)  # upright, as viewers show it


_PILLOW_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
READERS: dict[str, Callable[[bytes], Image.Image]] = dict.fromkeys(_PILLOW_ENDINGS, _pillow)


def _raster(file: str) -> Image.Image:
    ending = UPath(file).suffix.lower()
    if ending not in READERS:
        raise BadFile(file, f"the format {ending or 'without ending'} is not known; known are {', '.join(READERS)}")
    try:
        with reaching(file):
            content = fresh(UPath(file)).read_bytes()
        if not content:
            raise BadFile(file, "the file is empty (0 bytes)")
        return READERS[ending](content)
    except FileNotFoundError:
        raise BadFile(file, "the file does not exist") from None
    except _PILLOW_ERRORS as error:
        raise BadFile(file, f"cannot be read as an image: {_plain(error)}") from error


def _grey(image: Image.Image) -> np.ndarray:
    if image.mode == "1":
        return np.asarray(image, np.float32)
    if len(image.getbands()) == 1 and image.mode != "P":
        return np.asarray(image).astype(np.float32)
    return np.asarray(image.convert("RGB").convert("L"), np.float32)


def _size(values: np.ndarray) -> str:
    return " x ".join(map(str, values.shape))


def _plain(error: BaseException) -> str:
    """Pillow's message without the address of its in-memory file."""
    return "not an image of a known kind" if "cannot identify" in str(error) else str(error)
