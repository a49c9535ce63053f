"""What `demo --secure` says beside the plain demo: sums, sites behind them, and what noise cost.

Reads the coordinator's file and the sites' own ledgers after the run.
"""

import sqlite3

import msgspec

from agent.privacy import FILE_NAME, read_account
from agent.privacy.accounting import epsilon_of
from coordinator.config import DATABASE, read_coordinator_settings
from shopfloor.plant import DELTA, K_MIN, Plant
from shopfloor.record import RunRecord, Secured, SitePrivacy, served_quality
from wire.codec import open_envelope, parse_body
from wire.messages import Manifest


def with_privacy(record: RunRecord, plain: RunRecord, plant: Plant) -> RunRecord:
    """Add to a run's record what masks and noise did to it.

    Args:
      record: of the run with masks.
      plain: of the same factories without.
      plant: of the run with masks.
    """
    settings = read_coordinator_settings(plant.coordinator_config)
    sums, smallest = _sums(plant)
    beside = served_quality(plain)
    epsilon = plant.options.epsilon
    secured = Secured(
        sums=sums,
        smallest=smallest,
        k_min=K_MIN,
        plain_pr_auc=beside.pr_auc,
        plain_roc_auc=beside.roc_auc,
        plain_bytes=plain.bytes_per_update,
        noise_multiplier=settings.policy.noise_multiplier,
        budget=epsilon,
        delta=DELTA if epsilon else 0.0,
        sites=_ledgers(record, plant) if epsilon else [],
    )
    return msgspec.structs.replace(record, secured=secured)


def _sums(plant: Plant) -> tuple[int, int]:
    """Sums that were opened, and the least number of sites behind one."""
    file = f"file:{plant.coordinator_state / DATABASE}?mode=ro"
    database = sqlite3.connect(file, uri=True)
    try:
        rows = database.execute("SELECT envelope FROM manifests WHERE status = 'opened'").fetchall()
        folded = database.execute(
            "SELECT count(DISTINCT agent) FROM updates WHERE status = 'folded' GROUP BY version"
        ).fetchall()
    finally:
        database.close()
    manifests = [parse_body(open_envelope(row[0], "manifest"), Manifest) for row in rows]
    # One agent a site here; figures of one agent stand in a sum once, updates may stand twice.
    figures = [len(each.members) for each in manifests if each.purpose != "update"]
    return len(manifests), min([*figures, *(int(row[0]) for row in folded)], default=0)


def _ledgers(record: RunRecord, plant: Plant) -> list[SitePrivacy]:
    produced = {site.site: site.produced for site in record.sites}
    found = []
    for site in plant.sites:
        account = read_account(site.state / FILE_NAME)
        spent = account.spent if account is not None else None
        found.append(
            SitePrivacy(
                site=site.name,
                epsilon=epsilon_of(spent, DELTA) if spent is not None else 0.0,
                releases=spent.releases if spent is not None else 0,
                produced=produced[site.name],
            )
        )
    return found
