"""`journeyman bundle`: the data scientist's desk.

Builds, shows, verifies, signs, tries and exports bundles, on files of their own.  `main` is the
command line and the only module that prints; `tables` and `examples` turn files into rows, `trial`
trains on them and `quality` judges.
"""
