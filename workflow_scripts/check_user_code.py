"""Try a purifier or a classifier of one's own and say in plain words what is wrong with it, one line per check.

python -m workflow_scripts.check_user_code my_purifiers.py --params '{sigma: 0.1}'
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from purification.contract import FAILED, NOTE, SKIPPED, Finding, check
from purification.sources import defined_names

FACTORIES = {"purifier": "make_purifier", "classifier": "make_classifier"}


def shape(text: str) -> tuple[int, int, int]:
    """`C,H,W` as three numbers."""
    channels, height, width = map(int, text.split(","))
    if min(channels, height, width) < 1:
        raise ValueError
    return channels, height, width


def mapping(text: str) -> dict[str, Any]:
    """A YAML mapping; nothing is an empty one."""
    value = yaml.safe_load(text) or {}
    if not isinstance(value, dict):
        raise ValueError
    return value


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="Python file")
    parser.add_argument("--factory", help="its function (default: make_purifier and make_classifier, where defined)")
    parser.add_argument("--params", type=mapping, default={}, help="params of the entry, as YAML: '{sigma: 0.1}'")
    parser.add_argument("--shape", type=shape, default=(1, 16, 16), help="C,H,W of an image (default: 1,16,16)")
    parser.add_argument("--classes", type=int, default=10, help="number of classes (default: 10)")
    parser.add_argument("--kind", choices=FACTORIES, help="default: by the name of the factory")
    return parser.parse_args(argv)


def chosen(file: Path, factory: str | None, kind: str | None) -> dict[str, str]:
    """Kind -> factory to try."""
    if factory:
        return {kind or ("classifier" if "classif" in factory.lower() else "purifier"): factory}
    if kind:
        return {kind: FACTORIES[kind]}
    try:
        known = set(defined_names(file))
    except (OSError, SyntaxError, ValueError):
        known = set()
    return {kind: name for kind, name in FACTORIES.items() if name in known} or {"purifier": FACTORIES["purifier"]}


def lines(findings: list[Finding], params: dict[str, Any]) -> list[str]:
    """One line per check that was made, one for the others, then the sum."""
    made = [finding for finding in findings if finding.verdict != SKIPPED]
    text = [f"  {f.check:15} {'FAILED:' if f.verdict == FAILED else f.verdict:8} {f.sentence}" for f in made]
    if skipped := [finding for finding in findings if finding.verdict == SKIPPED]:
        text.append(f"  not checked: {', '.join(finding.check for finding in skipped)}")
    failed = [finding for finding in made if finding.verdict == FAILED]
    if not failed:
        notes = sum(finding.verdict == NOTE for finding in made)
        return [*text, f"All {len(made)} checks passed{f', {notes} with a note' if notes else ''}."]
    if not params and any("KeyError" in finding.sentence for finding in failed):
        text.append("  No params were given: add PARAMS='{name: value}' (or --params) as in the configuration.")
    return [*text, f"{len(failed)} of {len(made)} checks failed: {', '.join(finding.check for finding in failed)}."]


def main(argv: list[str] | None = None) -> int:
    """0 when every check passed, 1 otherwise."""
    options = arguments(argv)
    verdicts = []
    for kind, factory in chosen(options.file, options.factory, options.kind).items():
        settings = {"path": str(options.file), "factory": factory, "params": options.params}
        findings = check(kind, settings, options.shape, options.classes)
        print("\n".join([f"{options.file}, {factory}:", *lines(findings, options.params)]))
        verdicts += [finding.verdict for finding in findings]
    return int(FAILED in verdicts)


if __name__ == "__main__":
    sys.exit(main())
