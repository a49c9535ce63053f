"""Set-points proposed from a learned surrogate, for people; never written to a machine."""
