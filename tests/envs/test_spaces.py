from __future__ import annotations

import numpy as np

from drama.envs import as_rgb


def test_three_channels_are_rgb():
    frame = np.arange(2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 3)
    assert as_rgb(frame) is frame


def test_each_channel_has_a_hue_and_the_brightest_is_shown():
    frames = np.zeros((5, 1, 4, 2), np.uint8)  # hues 0 (red) and 1/2 (cyan), saturation 0.7
    frames[0, 0, 1] = (255, 0)
    frames[0, 0, 2] = (0, 255)
    frames[0, 0, 3] = (100, 200)
    rgb = as_rgb(frames)
    assert rgb.shape == (5, 1, 4, 3)
    assert rgb.dtype == np.uint8
    # 0.3 * 255 = 76.5 rounds to even; of red (100, 30, 30) and cyan (60, 200, 200) the larger.
    assert rgb[0, 0].tolist() == [[0, 0, 0], [255, 76, 76], [76, 255, 255], [100, 200, 200]]
    assert not rgb[1:].any()
