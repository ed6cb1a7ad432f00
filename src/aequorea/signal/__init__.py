"""Arrays in, arrays out: optics, geometry, intensity, simulated specimens, filters, basins."""
