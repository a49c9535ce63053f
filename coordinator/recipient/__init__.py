"""The recipient of homomorphic encryption: who alone can decrypt, and decrypts sums only.

Run by somebody other than the coordinator's operator (`docs/homomorphic.md`).  It is shown who is
in a sum and checks that for itself (`rules.py`), promises each update to one sum for ever
(`store.py`), and answers with the sum's integers (`desk.py`).
"""
