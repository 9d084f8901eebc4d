"""Prediction of whole scrolls, from OME-Zarr to OME-Zarr, on one machine or a cluster.

Import the modules directly: they need zarr and Dask (``pip install -e ".[scroll]"``), which the rest of this package
does not.
"""
