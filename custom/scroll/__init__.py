"""Whole scrolls: an OME-Zarr volume of any size in, an OME-Zarr prediction out, on one machine or on many.

The modules are imported by name, not from here: they need zarr and Dask (``pip install -e ".[scroll]"``), without which
the rest of this package works.
"""
