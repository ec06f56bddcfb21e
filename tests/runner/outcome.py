"""What a part proved: counts, and the reasons of what it did not run."""

from dataclasses import dataclass, field


@dataclass
class Outcome:
    """Tests of one part. A skip carries its reason; one that starts with `machine:` cannot be cured by installing."""

    passed: int = 0
    failed: int = 0
    skips: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skips += other.skips
        self.failures += other.failures

    @staticmethod
    def failure(reason: str) -> "Outcome":
        return Outcome(failed=1, failures=[reason])

    def strict(self) -> "Outcome":
        """The same with each skip that an install could have avoided turned into a failure, as CI wants it."""
        curable = [reason for reason in self.skips if not reason.startswith("machine:")]
        kept = [reason for reason in self.skips if reason.startswith("machine:")]
        failures = self.failures + [f"skipped under CI: {reason}" for reason in curable]
        return Outcome(self.passed, self.failed + len(curable), kept, failures)
