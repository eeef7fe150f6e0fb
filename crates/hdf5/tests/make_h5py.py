"""Makes h5py.h5, what the reader's tests read: ``pip install h5py && python make_h5py.py`` (h5py 3.16, HDF5 2.0)."""

import h5py
import numpy as np

ramp = np.arange(70, dtype="f4").reshape(10, 7)
with h5py.File("h5py.h5", "w") as file:
    file["float"] = ramp
    file["double"] = ramp.astype("f8")
    file["half"] = ramp.astype("f2")
    file["int"] = np.arange(-5, 5)
    file["byte"] = np.arange(10, dtype="u1")
    file["big_endian"] = np.arange(-5, 5, dtype=">i2")
    file["scalar"] = np.float32(7)
    file["text"] = np.bytes_("some text")
    file["soft"] = h5py.SoftLink("/float")
    # Chunks that reach over the edges, through all filters.
    file.create_dataset("gzip", data=ramp, chunks=(4, 3), compression="gzip", shuffle=True, fletcher32=True)
    file.create_dataset("unwritten", shape=(10, 2), dtype="f4", chunks=(5, 2), fillvalue=3)
    file.create_dataset("lzf", data=ramp, compression="lzf")
    file.create_dataset("boolean", data=np.zeros(3, bool))
with h5py.File("h5py_latest.h5", "w", libver="latest") as file:
    file["float"] = ramp
    file["group/int"] = np.arange(3)
    file.create_dataset("chunked", data=ramp, chunks=(4, 3))
