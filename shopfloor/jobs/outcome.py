"""From what a run left to its record: every model judged on rows that nobody trained on.

Reads only.  Invariant: the four ways are judged on the same rows, in the same order: site by site.
"""

import contextlib
from dataclasses import dataclass

import numpy as np

from agent.egress import FILE_NAME, read_account
from agent.own_model import OwnModelFile
from shopfloor.jobs.baselines import POOLED
from shopfloor.jobs.judging import (
    Floats,
    Judged,
    answers,
    can_tell,
    difference,
    judged_rows,
    mean,
    quality,
    standardised,
)
from shopfloor.jobs.learned import Learned, learned_in, served_answers
from shopfloor.jobs.moving import in_words, moved
from shopfloor.jobs.newcomer import newcomer_of
from shopfloor.jobs.plant import JobPlant, JobSite
from shopfloor.jobs.proposed import proposals_of
from shopfloor.jobs.record import (
    CoursePoint,
    Drift,
    JobRecord,
    Qualities,
    SiteResult,
    Unseen,
)
from shopfloor.jobs.run import JobRun
from shopfloor.jobs.task import TIME
from shopfloor.ledger import account
from shopfloor.record import UpdateCounts

GLOBAL = "the federation's model"


@dataclass(frozen=True, eq=False)
class Answers:
    """Every way's answers for one site's test rows, each (N,)."""

    local: Floats
    federated: Floats
    personal: Floats
    pooled: Floats


def record_of(run: JobRun) -> JobRecord:
    """Judge what was learned; the record of a run that has ended.

    Raises:
      RuntimeError: it has not ended well.
    """
    plant, task, options = run.plant, run.plant.task, run.plant.options
    learned = learned_in(run)
    test = [
        judged_rows(plant.manifest, site.rows.test, task.group, site.name) for site in plant.sites
    ]
    found = _answers(run, learned, test)
    sites = [
        _site(run, site, judged, each)
        for site, judged, each in zip(plant.sites, test, found, strict=True)
    ]
    members = [at for at, site in enumerate(plant.sites) if site.name != options.newcomer]
    ways = Qualities.__struct_fields__
    own = Qualities(*(mean([getattr(sites[at].quality, way) for at in members]) for way in ways))
    end_s = run.t_s
    shares = [site.down_share for site in sites]
    produced = run.produced()
    told = account(set(produced), run.ledger)
    with contextlib.closing(run.open_store()) as store:
        duplicates = store.counts()["duplicates"]
    read, unread = _columns(plant)
    return JobRecord(
        task=task.name,
        title=task.title,
        metric=task.metric,
        unit=_unit(plant),
        data=options.data.name if options.data is not None else "generated",
        seed=options.seed,
        wall_s=round(end_s, 1),
        sites=sites,
        overall=_overall(run, test, found, members),
        own=own,
        course=_course(run, learned, [test[at] for at in members]),
        outages=run.links.outages(end_s),
        updates=UpdateCounts(
            produced=told.produced, **told.by_outcome, duplicates=duplicates, lost=told.lost
        ),
        versions=learned.versions,
        served=learned.version,
        threshold=_threshold(learned),
        down_share=sum(shares) / len(shares),
        channels=read,
        unread=unread,
        drift=_drift(run, learned) if options.drift else None,
        newcomer=newcomer_of(run, learned, sites),
        unseen=_unseen(run, test, found),
        proposals=proposals_of(run, learned.model, learned.served, learned.standard),
    )


def _answers(run: JobRun, learned: Learned, test: list[Judged]) -> list[Answers]:
    arrays = run.baselines()
    ends = np.cumsum([len(each.truth) for each in test])
    found = []
    for site, judged, end in zip(run.plant.sites, test, ends, strict=True):
        rows = slice(int(end) - len(judged.truth), int(end))
        inputs = standardised(learned.model.manifest, judged.examples.x, learned.standard)
        federated = answers(learned.model, learned.served, inputs)
        personal = served_answers(learned, site, inputs)
        found.append(Answers(arrays[site.name][rows], federated, personal, arrays[POOLED][rows]))
    return found


def _site(run: JobRun, site: JobSite, judged: Judged, found: Answers) -> SiteResult:
    metric, truth = run.plant.task.metric, judged.truth
    told = can_tell(metric, truth)
    qualities = Qualities(
        *(
            quality(metric, truth, getattr(found, way)) if told else None
            for way in Qualities.__struct_fields__
        )
    )
    status = run.statuses()[site.name]
    own = OwnModelFile(site.state).load()
    lines = read_account(site.state / FILE_NAME)
    sent: dict[str, int] = {}
    for line in lines.lines if lines is not None else ():
        sent[line.category] = sent.get(line.category, 0) + line.bytes
    is_binary = metric in ("pr_auc", "roc_auc")
    return SiteResult(
        name=site.name,
        rows=len(site.rows.train[TIME]),
        test_rows=len(truth),
        test_positives=int(truth.sum()) if is_binary else None,
        quality=qualities,
        serves=own.serving.reason if own is not None else GLOBAL,
        over_local=difference(metric, truth, found.personal, [found.local], run.plant.options.seed),
        produced=status.produced,
        folded=status.outcomes.get("folded", 0),
        down_share=run.links.down_share(site.name, run.t_s),
        sent_bytes=sent,
    )


def _overall(
    run: JobRun, test: list[Judged], found: list[Answers], members: list[int]
) -> Qualities:
    """On all members' test rows together; local: the mean of the members' models."""
    metric, arrays = run.plant.task.metric, run.baselines()
    ends = np.cumsum([len(each.truth) for each in test])
    chosen = np.zeros(int(ends[-1]), np.bool_)
    for at in members:
        chosen[int(ends[at]) - len(test[at].truth) : int(ends[at])] = True
    truth = np.concatenate([each.truth for each in test])[chosen]

    def of(way: str) -> float | None:
        joined = np.concatenate([getattr(each, way) for each in found])
        return quality(metric, truth, joined[chosen])

    names = [run.plant.sites[at].name for at in members]
    local = mean([quality(metric, truth, arrays[name][chosen]) for name in names])
    return Qualities(local, of("federated"), of("personal"), of("pooled"))


def _course(run: JobRun, learned: Learned, test: list[Judged]) -> list[CoursePoint]:
    manifest, metric = learned.model.manifest, run.plant.task.metric
    inputs = [standardised(manifest, each.examples.x, learned.standard) for each in test]
    truth = np.concatenate([each.truth for each in test])
    points: list[CoursePoint] = []
    seen: set[str] = set()
    for head in run.ledger.heads:
        version, digest = head.serve
        if digest in seen or not run.ledger.has_model(digest):
            continue
        seen.add(digest)
        params = run.ledger.model(digest, manifest.shared_shapes)
        answer = np.concatenate([answers(learned.model, params, each) for each in inputs])
        at = max(0.0, head.wall - run.started)
        points.append(CoursePoint(round(at, 1), version, quality(metric, truth, answer)))
    return points


def _drift(run: JobRun, learned: Learned) -> Drift:
    plant, task, site = run.plant, run.plant.task, run.plant.members[0]

    def judge(test: dict[str, np.ndarray]) -> float | None:
        judged = judged_rows(plant.manifest, test, task.group, site.name)
        inputs = standardised(plant.manifest, judged.examples.x, learned.standard)
        return quality(task.metric, judged.truth, answers(learned.model, learned.served, inputs))

    return Drift(
        site=site.name,
        moved=in_words(task, plant.manifest),
        before=judge(site.rows.test),
        after=judge(moved(task, plant.manifest, site.rows.test)),
        alarm=run.alarm,
        alarm_s=run.drift_s,
    )


def _unseen(run: JobRun, test: list[Judged], found: list[Answers]) -> Unseen | None:
    """The class that a site's rows lack while its test rows have it, where there is one."""
    label = run.plant.manifest.label
    if run.plant.task.metric != "accuracy" or label is None:
        return None
    for site, judged, each in zip(run.plant.sites, test, found, strict=True):
        known = set(np.unique(site.rows.train[label.channel]).astype(int).tolist())
        for lacking in sorted(set(np.unique(judged.truth).astype(int).tolist()) - known):
            rows = judged.truth == lacking
            right = {
                way: int(np.sum(getattr(each, way)[rows] == lacking))
                for way in Qualities.__struct_fields__
            }
            return Unseen(site.name, label.classes[lacking], int(rows.sum()), **right)
    return None


def _threshold(learned: Learned) -> str:
    """From which score on an alarm is raised, and who says so; empty where there are no alarms."""
    manifest, found = learned.model.manifest, learned.threshold
    if manifest.alarm is None:
        return ""
    if found is None:
        return f"{manifest.threshold:.3g}, the bundle's: too few rows to learn one"
    alarm = manifest.alarm
    if alarm.share is not None:
        return f"{found:.3g}, which {alarm.share:.1%} of all sites' held-out rows reach"
    costs = f"{alarm.missed_cost:g} and a false alarm {alarm.false_cost:g}"
    return f"{found:.3g}, the cheapest over all sites' held-out rows if a missed one costs {costs}"


def _unit(plant: JobPlant) -> str:
    label = plant.manifest.label
    if plant.task.metric != "rmse" or label is None:
        return ""
    return plant.task.unit


def _columns(plant: JobPlant) -> tuple[list[str], list[str]]:
    """What the agents were told to read, and what else lies in the sites' files."""
    label = plant.manifest.label
    read = [each.name for each in plant.manifest.channels]
    read += [label.channel] if label is not None else []
    read += [plant.task.group] if plant.task.group else []
    there = {name for site in plant.sites for name in site.rows.train}
    return read, sorted(there - {*read, TIME})
