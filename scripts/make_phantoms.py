"""Make a dataset of phantoms in the folder layout of the real one."""

from scripts.command_line import command_line
from scripts.phantoms.layouts import write_abdomens, write_scrolls, write_zarr_scroll

if __name__ == "__main__":
    commands = {"scroll": write_scrolls, "abdomen": write_abdomens, "zarr": write_zarr_scroll}
    print(f"Phantoms are in {command_line(commands, 'make_phantoms.py')}")
