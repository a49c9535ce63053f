"""Attacks on what leaves a site, with the same budget without a defence and with it.

Each attack is a pure function of what its attacker holds.  What is attacked is made by the
product's own code: training, clipping, noise, rounding, masks, helpers.  A defence counts when the
attack succeeds without it and fails with it; an attack that never succeeds shows nothing.
"""
