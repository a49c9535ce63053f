"""Set-points proposed from a surrogate that was learned together: what they are worth."""
