"""Checks of an exported audit log, offline: `journeyman audit verify | compare | prove`.

    file ─► check (signatures, tree) ─► account (do the decisions fit each other) ─► words
                 │
                 └─► compare: heads that sites collected, against this log and each other

Needs the exported file and the root's public key, and nothing of the coordinator's.
"""
