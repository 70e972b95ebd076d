"""Print docs/reference/architectures.md: how each architecture of mlx_lm is served.

python -m tests.tools.families > docs/reference/architectures.md
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlx_worker.engine.batch_support import UNBATCHED
from tests.families.known import BATCHED, INEXACT, MLX_LM, NOT_TRIED, REFUSED

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "architectures.md"


def page() -> str:
    refused = {name: refusal.why for name, refusal in REFUSED.items()}
    single = {name: why for name, why in UNBATCHED.items() if name not in NOT_TRIED}
    total = sum(map(len, (BATCHED, single, INEXACT, refused, NOT_TRIED)))
    return f"""# Architectures

The {total} architectures of mlx_lm {MLX_LM}, by their `model_type`. The suite
`tox -e families` makes a tiny random float32 model of each from the fields of mlx_lm's own
arguments, and loads the model as the node does. The suite compares every token and its
log-probability with `mlx_lm.stream_generate` alone: in a batch of eight requests that join and
leave, on a prefix from the prompt cache, and after a [replay](glossary.md). The suite
fails when mlx_lm has an architecture that is not in this list.

`python -m tests.tools.families > docs/reference/architectures.md` writes the list. What
"equal" means beyond float32 is in [What exact means](../concepts/exact.md).

mlx_lm maps further model types to these, for example `mistral` to `llama`.

## Batched, and equal in all ways ({len(BATCHED)})

{", ".join(f"`{name}`" for name in BATCHED)}

## Served one row at a time, and equal ({len(single)})

mlx_lm's batch changes the answers of these, or raises an error, so the node serves one request
at a time. `unbatched` in `/health` has the reason. A batch pads shorter prompts: padding that the
model takes for tokens changes its answers.

{_table(single)}
## Not equal ({len(INEXACT)})

{_table(INEXACT)}
## Refused at load ({len(refused)})

{_table(refused)}
## Not tried ({len(NOT_TRIED)})

The suite runs on a CPU.

{_table(NOT_TRIED)}"""


def _table(reasons: Mapping[str, str]) -> str:
    rows = "".join(f"| `{name}` | {why} |\n" for name, why in sorted(reasons.items()))
    return f"| architecture | reason |\n|---|---|\n{rows}"


if __name__ == "__main__":
    sys.stdout.write(page())
