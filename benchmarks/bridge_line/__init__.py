"""The bridge's link on a line model in virtual time, against the C library's device."""
