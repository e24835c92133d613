"""AutoAttack beside the reference's `standard` with everything as published: minutes to hours, so no test.

python tests/compare_autoattack.py --images 300 --norms linf l2 l1 --purifiers none noise "one step" ddpm
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "unit"))

import torch
from attack_oracles import BUDGETS, PURIFIERS, case_of, ours, published, share, theirs


def main() -> int:
    """One line per norm and purifier; 1 if one of ours is more than a point above the reference's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--norms", nargs="+", default=list(BUDGETS), choices=BUDGETS)
    parser.add_argument("--purifiers", nargs="+", default=list(PURIFIERS), choices=PURIFIERS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    worst = 0.0
    for norm in options.norms:
        for purifier in options.purifiers:
            case = case_of(purifier, options.images)
            begin = time.process_time()
            left = share(ours(case, published(norm, options.steps, options.queries), norm))
            middle = time.process_time()
            reference = share(theirs(case, norm, options.steps, options.queries))
            seconds = f"{middle - begin:.0f} and {time.process_time() - middle:.0f} s"
            print(f"{norm:4} {purifier:8} ours {left:.4f}, reference {reference:.4f} ({seconds})", flush=True)
            worst = max(worst, left - reference)
    return int(worst > 0.01)


if __name__ == "__main__":
    sys.exit(main())
