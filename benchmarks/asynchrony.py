"""Asynchronous against synchronous learning when links are down half of the time, or nearly always.

Five hundred agents (`shopfloor/simulate`): links of two states, speeds that differ by a factor of
fifty and go with the data (correlation .7: the slow ones hold classes that the fast ones lack),
classes by Dirichlet .1.  Folding, rounding to int8, selection and optimizers are the product's own.
What is compared is simulated time, and updates that came, until the accuracy is at .85 in the mean
of three evaluations.

Fair to synchronous FedAvg (McMahan et al., arXiv:1602.05629; over-selection and deadline as in
Bonawitz et al., arXiv:1902.01046):

- It is tuned: cohort, over-selection, deadline, and the server's step and momentum, by a grid that
  is printed; the best of it are run on the reported seeds, and the best there is taken.
- Agents of a round that is over give their work up at once, are free for the next round, and send
  nothing.  The product's agents would finish, send and be refused.
- A new round begins in the instant that the last one ends; a freed slot of the asynchronous side
  waits up to 5 s.
- Asynchronous settings are chosen on seeds that are not reported.

The last line is JSON; `value` is the mean over the seeds of how many times faster the asynchronous
side is at 50 % off.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import batched, product
