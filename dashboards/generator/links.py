"""Where a click leads: from the lab to an experiment, a run, a node."""

from __future__ import annotations

_KEEP = "${datasource:queryparam}&${__url_time_range}"


def _field(name: str, label: str = "") -> str:
    return f"var-{name}=${{__data.fields.{label or name}}}"


EXPERIMENT = {
    "title": "This experiment",
    "url": f"/d/joulebook-experiment?{_KEEP}&{_field('account')}&{_field('experiment')}",
}
WORKLOAD = {
    "title": "This run",
    "url": f"/d/joulebook-workload?{_KEEP}&{_field('workload')}",
}
NODE = {"title": "This node", "url": f"/d/joulebook-node?{_KEEP}&{_field('node')}"}
ACCOUNT = {
    "title": "Experiments of this account",
    "url": f"/d/joulebook-lab?{_KEEP}&var-account=${{__field.labels.account}}",
}
USER = {
    "title": "Experiments of this user",
    "url": f"/d/joulebook-lab?{_KEEP}&var-user=${{__field.labels.user}}",
}
RUN_OF_BAR = {
    "title": "This run",
    "url": f"/d/joulebook-workload?{_KEEP}&var-workload=${{__field.labels.workload}}",
}
