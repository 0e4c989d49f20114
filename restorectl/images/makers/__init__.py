"""Files of the microscopes' makers, and HDF5: read through their libraries, never written."""
