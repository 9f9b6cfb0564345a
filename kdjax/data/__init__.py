"""Everything from files to arrays on the device."""
