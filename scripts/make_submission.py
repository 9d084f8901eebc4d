"""Write predictions in the competitions' submission formats, and verify them by decoding."""

from scripts.command_line import command_line

from custom.competition.submission import write_liver, write_vesuvius


def liver(
    predictions: str,
    output: str = "submission.csv",
    id_template: str = "{volume}_{slice}",
    first_slice: int = 0,
    transpose: bool = False,
) -> None:
    """Write the CSV of the liver competition: a run-length code for each slice of each predicted volume.

    The mask is liver and tumour together (label > 0). Slices are those along the last axis of the file as stored (k of
    a NIfTI), whatever its orientation; rows are the first axis and columns the second, as in nibabel, and pixels are
    numbered column by column from 1. A slice without liver is "1 0".

    Example: python scripts/make_submission.py liver eval/predictions --id_template "{number:03d}_{slice}"

    Args:
        predictions: folder of label maps, one per volume, as written by inference.
        output: the CSV to write, with the columns id and rle.
        id_template: {volume} is the file name without suffix, {number} its trailing number, {slice} the slice.
        first_slice: number of the first slice.
        transpose: whether rows are the second axis instead.
    """
    write_liver(
        str(predictions), str(output), id_template=str(id_template), first_slice=first_slice, transpose=transpose
    )


def vesuvius(predictions: str, output: str = "submission.zip") -> None:
    """Write the zip of the surface competition: <id>.tif for each predicted volume, 8-bit, 0 or 1.

    Example: python scripts/make_submission.py vesuvius eval/predictions --output submission.zip

    Args:
        predictions: folder of masks, one multi-page TIFF per volume, as written by inference.
        output: the zip to write.
    """
    write_vesuvius(str(predictions), str(output))


if __name__ == "__main__":
    command_line({"liver": liver, "vesuvius": vesuvius}, "make_submission.py")
