"""The layout of a surface target: everything the losses compare a prediction with, in the channels of one tensor.

One tensor, because then whatever resizes a target for deep supervision, moves it to a device or collates it treats
all parts alike, and because MONAI's trainer hands exactly one target to the loss. The label comes first, with the
ignore label still in it, so that a loss for plain labels reads a full target as well.
"""

IGNORE_LABEL = 2
"""The competition's label of voxels nobody annotated."""

TARGET_CHANNELS = ("label", "medial", "distance")
"""Label {0, 1, ignore}; medial surface {0, 1}; signed distance to the surface, in units of its largest value."""
