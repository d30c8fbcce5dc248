"""Runs ministack with one thing put right.

ministack 1.5.33 answers a health check's booleans as `True` and `False`, where XML, and every SDK, says `true` and
`false`: an inverted check, on which our switch rests, reads as an ordinary one.
"""

import sys

import ministack.services.route53 as route53
from ministack.app import main

_as_ministack_has_it = route53._build_health_check_el


def _with_booleans_of_xml(parent, check):
    config = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in check.get("config", {}).items()
    }
    return _as_ministack_has_it(parent, {**check, "config": config})


route53._build_health_check_el = _with_booleans_of_xml

if __name__ == "__main__":
    sys.argv = ["ministack"]
    sys.exit(main())
