"""What the pictures show, read from the drawn layers."""

import numpy as np

from custom.handlers.panels import draw_panel

LABEL = np.array([[[0, 0], [0, 0]], [[1, 1], [0, 2]]])
PRED = np.array([[[0, 0], [0, 0]], [[1, 0], [1, 1]]])


def layers(figure):
    return [np.asarray(axis.images[-1].get_array().filled(0)) for axis in figure.axes[1:]]


def test_shows_label_prediction_and_errors():
    figure = draw_panel(np.zeros((2, 2, 2)), LABEL, PRED, title="case")
    assert figure.get_suptitle() == "case, slice 1"
    label, pred, errors = layers(figure)
    np.testing.assert_array_equal(label, LABEL[1])
    np.testing.assert_array_equal(pred, PRED[1])
    np.testing.assert_array_equal(errors, [[0, 1], [2, 1]])


def test_shows_the_slice_with_most_of_the_highest_class():
    label = np.array([[[1, 1], [1, 1]], [[1, 0], [0, 2]], [[2, 2], [0, 0]], [[0, 0], [0, 1]]])
    for ignored, index in ((None, 2), (2, 0)):
        figure = draw_panel(np.zeros(label.shape), label, label, title="case", ignored=ignored)
        assert figure.get_suptitle() == f"case, slice {index}"


def test_ignored_voxels_are_neither_drawn_nor_wrong():
    label, _, errors = layers(draw_panel(np.zeros((2, 2, 2)), LABEL, PRED, title="case", ignored=2))
    np.testing.assert_array_equal(label, [[1, 1], [0, 0]])
    np.testing.assert_array_equal(errors, [[0, 1], [2, 0]])
