import re

import numpy as np
import pytest
from PIL import Image

from preprocessing.cache_settings import CacheSettings
from preprocessing.case import BadFile, Case
from preprocessing.prepare import prepare

NOWHERE = "there is no such file or folder"


@pytest.mark.parametrize(
    ("dims", "name", "reason"),
    [
        (3, "p1", NOWHERE),
        (3, "p1#CT", NOWHERE),
        (3, "gone.png", NOWHERE),
        (3, "there.png", "is a 2D image, data.dims is 3"),
        (3, "notes.xyz", "the format .xyz is not known as a volume"),
        (2, "p1", NOWHERE),
        (2, "p1#CT", NOWHERE),
        (2, "notes.xyz", "the format .xyz is not known"),
        (2, "gone.png", "the file does not exist"),
    ],
)
def test_what_is_no_volume_says_why(tmp_path, dims, name, reason):
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "there.png")
    (tmp_path / "notes.xyz").touch()
    case = Case("a", "a", "", {"image": str(tmp_path / name)}, ())
    with pytest.raises(BadFile, match="^" + re.escape(f"{tmp_path / name}: {reason}")):
        prepare(case, CacheSettings(size=(8,) * dims, patch=(4,) * dims))
