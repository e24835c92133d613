"""Results and the records of how they came about, compared by content before anything is planned."""

import os

from workflow_scripts.records import forget_parts, reconcile, require_dependencies

OUTPUTS = [path for each in workflow.rules for path in each.output]
FIXED = {str(path) for path in OUTPUTS if not path.contains_wildcard()}
PATTERNS = [path for path in OUTPUTS if path.contains_wildcard()]


def is_output(path):
    """Whether a rule writes this file under the present configuration."""
    return path in FIXED or any(pattern.match(path) for pattern in PATTERNS)


if workflow.is_main_process:
    try:
        if "DVC_STAGE" in os.environ:
            entries = [CHOSEN, *(config["purifiers"][name] for name in EVALUATED)]
            own = [file for entry in entries for file in user_files(entry)]
            require_dependencies(own, ROOT / "dvc.yaml")
        forget_parts(Path(".snakemake"), PARTS)
        reconcile(Path(".snakemake"), Path(RESULTS), is_output)
    except ValueError as error:
        raise WorkflowError(str(error)) from None
