from __future__ import annotations

import numpy as np

from preprocessing.geometry.foreground import foreground_box, foreground_mask


def test_foreground_is_the_brain_or_the_body():
    brain = np.zeros((2, 6, 8, 9), np.float32)
    brain[0, 1:3, 2:5, 3:7] = 5
    brain[1, 2, 2:7, 3] = -2
    assert np.array_equal(foreground_mask(brain, "mri"), (brain != 0).any(axis=0))
    assert foreground_box(foreground_mask(brain, "mri")) == ((1, 2, 3), (3, 7, 7))
    assert foreground_mask(brain, "none").all()
    assert foreground_box(np.zeros((6, 8, 9), bool)) == ((0, 0, 0), (6, 8, 9))
    _, y, x = np.mgrid[:10, :40, :50]
    body = (y - 18) ** 2 + (x - 25) ** 2 < 14**2
    lung = (y - 18) ** 2 + (x - 25) ** 2 < 5**2
    table = (y > 35) & (x > 5)
    ct = np.select([lung, body, table], [-800.0, 40.0, 100.0], -1000.0).astype(np.float32)
    values = np.stack([np.ones_like(ct), ct])
    assert np.array_equal(foreground_mask(values, "ct", ct=1), body)
    assert foreground_box(foreground_mask(values, "ct", ct=1)) == ((0, 5, 12), (10, 32, 39))
    open_lung = values[:, :, :19]  # the lower half is cut off: the lung opens to the border and is no hole
    assert np.array_equal(foreground_mask(open_lung, "ct", ct=1), (body & ~lung)[:, :19])
    assert not foreground_mask(np.full((1, 3, 4, 5), -1000, np.float32), "ct").any()
