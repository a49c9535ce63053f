"""How a site fares that joined when training was over: it trains nothing, so all its rows judge."""

from collections.abc import Sequence

import numpy as np

from shopfloor.jobs.judging import (
    can_tell,
    difference,
    judged_rows,
    mean,
    quality,
    standardised,
)
from shopfloor.jobs.learned import Learned, served_answers
from shopfloor.jobs.record import Newcomer, SiteResult
from shopfloor.jobs.run import JobRun


def newcomer_of(run: JobRun, learned: Learned, sites: Sequence[SiteResult]) -> Newcomer | None:
    """Judge what the newcomer is served beside what members serve; None for a run without one.

    Args:
      run: has ended.
      learned: what the federation learned.
      sites: every site's figures on its own test rows.
    """
    plant, name = run.plant, run.plant.options.newcomer
    joined = next((site for site in plant.sites if site.name == name), None)
    if joined is None:
        return None
    task, manifest = plant.task, plant.manifest
    sides = [
        judged_rows(manifest, rows, task.group, name)
        for rows in (joined.rows.train, joined.rows.test)
    ]
    truth = np.concatenate([side.truth for side in sides])
    inputs = standardised(
        manifest, np.concatenate([side.examples.x for side in sides]), learned.standard
    )
    own = served_answers(learned, joined, inputs)
    members = [served_answers(learned, site, inputs) for site in plant.members]
    told = can_tell(task.metric, truth)
    figures = {site.name: site.quality for site in sites}
    return Newcomer(
        site=name,
        rows=len(truth),
        quality=quality(task.metric, truth, own) if told else None,
        members_there=mean([quality(task.metric, truth, each) for each in members])
        if told
        else None,
        over_members=difference(task.metric, truth, own, members, plant.options.seed),
        members=mean([figures[site.name].federated for site in plant.members]),
        on_its_rows=figures[name].local,
    )
