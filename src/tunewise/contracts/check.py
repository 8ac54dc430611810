"""What `tunewise data check` found: problems by line, and what a person wants to know before paying."""

from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import Field

from tunewise.contracts.frozen import Frozen

Split: TypeAlias = Literal["train", "valid", "test"]
RowFormat: TypeAlias = Literal["chat", "prompt_completion", "preference", "labelled", "text"]
Severity: TypeAlias = Literal["error", "warning", "note"]


class Finding(Frozen):
    """One problem at one place. Errors stop a job; warnings block nothing but the verdict says them; notes inform."""

    severity: Severity
    code: str = Field(description="Stable, machine-readable: invalid_json, invalid_role, overlong, leakage, ...")
    file: str
    line: int | None = Field(description="Counts from 1; rows end at \\n only. None: the file as a whole.")
    param: str | None = Field(default=None, description="Field path, such as messages[2].role.")
    value: str | None = Field(default=None, description="The value at fault, shortened; secrets are masked.")
    message: str
    remedy: str


class Distribution(Frozen):
    """Of a count per row."""

    minimum: int
    p5: float
    mean: float
    median: float
    p95: float
    maximum: int
    total: int
    histogram: tuple[int, ...] = Field(description="Twenty equal bins from minimum to maximum.")


class FittedRows(Frozen):
    """The rows as training would take them: an over-long one is cut or left out, as was chosen; of text the blocks."""

    rows: int
    tokens: int
    longest: int


class FileReport(Frozen):
    """One file. Token counts are None where no base model was named."""

    split: Split
    path: Path
    sha256: str
    bytes: int
    lines: int
    rows: int = Field(description="Valid rows.")
    format: RowFormat | None
    roles: dict[str, int]
    messages_per_row: Distribution | None
    tokens_per_row: Distribution | None
    trained_tokens_per_row: Distribution | None
    fitted: FittedRows | None
    overlong_rows: int
    nothing_to_train_on: int
    weighted_rows: int = Field(default=0, description="Rows with a weight of their own.")
    exact_duplicates: int = Field(description="Rows equal to an earlier row of the file.")
    near_duplicates: int = Field(description="Further rows that nearly repeat an earlier one.")


class LeakedRow(Frozen):
    """A row of `split` that also stands in the file of `source` (train or valid), letter for letter or nearly."""

    split: Split
    line: int
    source: Split
    source_line: int
    similarity: float = Field(description="Estimated Jaccard similarity of 5-character shingles; 1.0 is exact.")


class InspectedToken(Frozen):
    """One token of a rendered row."""

    text: str
    trained: bool


class InspectedRow(Frozen):
    """The label inspector's view: what the model will see, and which of it carries loss."""

    file: str
    line: int
    tokens: tuple[InspectedToken, ...]


class Estimate(Frozen):
    """What a job will take, before it is started."""

    steps: int
    billed_tokens: int = Field(description="Tokens of the rows times epochs.")
    seconds: float
    memory_bytes: int
    least_memory_bytes: int = Field(description="With activations computed twice, where they do not fit.")
    cost: float | None = Field(description="In the user's currency; None without a machine price.")
    basis: str = Field(description="Where the speed comes from: measured on this machine, or estimated.")


class CheckReport(Frozen):
    """Everything that `data check` prints and `--json` gives."""

    files: tuple[FileReport, ...]
    findings: tuple[Finding, ...]
    leakage: tuple[LeakedRow, ...]
    inspected: tuple[InspectedRow, ...]
    hyperparameters: dict[str, int | float | str] | None = None
    estimate: Estimate | None = None

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that stop a job."""
        return tuple(finding for finding in self.findings if finding.severity == "error")
