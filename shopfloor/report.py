"""The report of one run: `report.json` and a self-contained `report.html` beside it.

Responsible for the numbers as JSON and for writing both files.  Refuses records that cannot answer
the report's questions, before anything is written.  Invariant: the same record gives the same
bytes.

The parts: `comparison.py` (what is compared), `report_words.py` (sentences), `report_page.py` and
`report_plots.py` (HTML and SVG; the plots alone need matplotlib, loaded when a page is drawn).
"""

import json
from pathlib import Path
from typing import Any

import msgspec

from shopfloor.comparison import Metric, compare_sites, quality_by
from shopfloor.record import (
    RunRecord,
    UpdateCounts,
    bytes_crossed,
    final_baseline,
    served_quality,
)
from shopfloor.report_page import report_html
from shopfloor.report_words import headline, verdict

__all__ = ["compare_sites", "headline", "report_html", "report_json", "verdict", "write_report"]


def write_report(record: RunRecord, directory: Path) -> None:
    """Write `report.json` and `report.html` into `directory`, which is made if it is missing.

    Raises:
      ValueError: the record cannot answer the report's questions (see `shopfloor/record.py`).
      OSError: the directory cannot be written.
    """
    numbers = json.dumps(report_json(record), indent=2, allow_nan=False)
    page = report_html(record)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(numbers + "\n", encoding="utf-8")
    (directory / "report.html").write_text(page, encoding="utf-8")


def report_json(record: RunRecord) -> dict[str, Any]:
    """The run's final numbers, unrounded, as plain JSON values.

    `pr_auc.local[site]` is the site's own model judged on all sites' held-out rows;
    `per_site[site].pr_auc.local` is the same model judged on the site's own held-out rows.

    Raises:
      ValueError: the record has no baseline or its served version was never judged.
    """
    return {
        "seed": record.seed,
        "data": record.data,
        "strategy": record.strategy,
        "pr_auc": _on_all_rows(record, "pr_auc"),
        "roc_auc": _on_all_rows(record, "roc_auc"),
        "per_site": _per_site(record),
        "updates": {name: getattr(record.updates, name) for name in UpdateCounts.__struct_fields__},
        "link_down_share": record.link_down_share,
        "bytes_per_update": record.bytes_per_update,
        "versions": record.versions,
        "serve_version": record.serve_version,
        "wall_s": record.wall_s,
        "secured": msgspec.to_builtins(record.secured),
    }


def _on_all_rows(record: RunRecord, metric: Metric) -> dict[str, Any]:
    last = final_baseline(record)
    return {
        "local": {site: quality_by(metric, model) for site, model in last.local.items()},
        "federated": quality_by(metric, served_quality(record)),
        "pooled": quality_by(metric, last.pooled),
    }


def _on_own_rows(record: RunRecord, metric: Metric) -> dict[str, dict[str, float | None]]:
    return {
        line.site: {"local": line.own, "federated": line.federated, "pooled": line.pooled}
        for line in compare_sites(record, metric)
    }


def _per_site(record: RunRecord) -> dict[str, Any]:
    pr_auc, roc_auc = _on_own_rows(record, "pr_auc"), _on_own_rows(record, "roc_auc")
    crossed = bytes_crossed(record)
    return {
        site.site: {
            "pr_auc": pr_auc[site.site],
            "roc_auc": roc_auc[site.site],
            "rows": site.rows,
            "failures": site.failures,
            "held_out_rows": site.held_out_rows,
            "held_out_failures": site.held_out_failures,
            "updates": {"produced": site.produced, "folded": site.folded},
            "staleness_mean": site.staleness_mean,
            "link_down_share": site.link_down_share,
            "up_bytes": crossed[site.site][0],
            "down_bytes": crossed[site.site][1],
        }
        for site in record.sites
    }
